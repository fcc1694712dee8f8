#include "furrow/plan/quote.h"

#include <algorithm>
#include <numeric>

#include "furrow/plan/quote_ranks.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

bool writes_kind(const Instruction& instruction, ValueKind kind) {
  return std::any_of(instruction.writes.begin(), instruction.writes.end(),
                     [kind](const Value& value) { return value.kind == kind; });
}

void add_instruction(const Program& program, const ModelSpec& spec, const Instruction& instruction,
                     Quote* quote) {
  if (instruction.unit < 0 || instruction.microbatch < 0) return;
  const Flops& unit = spec.units[instruction.unit].flops;
  const auto samples = static_cast<double>(program.microbatch_sizes[instruction.microbatch]);
  switch (instruction.op) {
    case Op::kForward:
      quote->flops.forward += unit.forward * samples;
      break;
    case Op::kRecompute:
      quote->flops.recompute += unit.forward * samples;
      quote->units[instruction.unit].recomputed = true;
      break;
    case Op::kBackwardInput:
      // The first unit's input needs no gradient.
      if (writes_kind(instruction, ValueKind::kGrad))
        quote->flops.backward_input += unit.backward_input * samples;
      break;
    case Op::kBackwardWeight:
      quote->flops.backward_weight += unit.backward_weight * samples;
      break;
    default:
      break;
  }
}

std::vector<UnitQuote> unit_quotes(const ModelSpec& spec) {
  std::vector<UnitQuote> quotes;
  for (const Unit& unit : spec.units) {
    UnitQuote quote;
    quote.name = unit.name;
    quote.kind = unit.kind;
    quote.compute = unit.compute;
    quote.output = unit.output.shape;
    quote.parameters = unit.parameter_count();
    quote.forward_flops = unit.flops.forward;
    quote.output_bytes = unit.output.bytes_per_sample();
    quote.saved_bytes = unit.saved_bytes;
    quotes.push_back(std::move(quote));
  }
  return quotes;
}

}  // namespace

double Quote::communication_bytes() const {
  double sum = 0;
  for (const CollectiveQuote& each : collectives) sum += each.mean_bytes;
  return sum;
}

int64_t Quote::total_bytes() const {
  return std::accumulate(peak_bytes.begin(), peak_bytes.end(), int64_t{0}) - host_bytes;
}

Quote quote(const Program& program, const ModelSpec& spec) {
  const VerifyReport report = verify(program, spec);
  Quote quote;
  quote.program = program.name;
  quote.architecture = spec.architecture;
  quote.units = unit_quotes(spec);
  quote.parameters = spec.parameter_count();
  quote.microbatches = static_cast<int64_t>(program.microbatch_sizes.size());
  quote.samples = program.samples();
  quote.instructions = report.instructions;
  quote.peak_bytes = report.peak_bytes;
  for (const Instruction& instruction : program.instructions)
    add_instruction(program, spec, instruction, &quote);
  for (UnitQuote& unit : quote.units) {
    if (unit.recomputed) unit.saved_bytes = 0;
  }
  quote_ranks(program, spec, &quote);
  return quote;
}

}  // namespace furrow::plan
