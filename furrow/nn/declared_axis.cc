#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/nn/declared_axis_torch.h"

namespace furrow::nn {
namespace {

plan::UnitCollective::Op op_of(tensor::AxisCollective::Op op) {
  switch (op) {
    case tensor::AxisCollective::Op::kReduceScatter:
      return plan::UnitCollective::Op::kReduceScatter;
    case tensor::AxisCollective::Op::kAllGather:
      return plan::UnitCollective::Op::kAllGather;
    case tensor::AxisCollective::Op::kAllReduce:
      break;
  }
  return plan::UnitCollective::Op::kAllReduce;
}

std::string text_of(plan::UnitCollective::Op op, int64_t bytes) {
  return fmt::format("{} of {} bytes", name_of(op), bytes);
}

int64_t bytes_of(const plan::UnitCollective& collective, int64_t samples) {
  return collective.bytes_per_sample * samples + collective.fixed_bytes;
}

[[noreturn]] void deviate(const plan::Unit& unit, DeclaredAxis::Phase phase, const std::string& expected,
                          const std::string& found) {
  throw Error(ErrorCode::kInternal,
              fmt::format("unit {} ({}) deviates from its declared collectives in {}: expected {}, found {}",
                          unit.name, unit.kind, name_of(phase), expected, found));
}

}  // namespace

void DeclaredAxis::enter(Phase phase, int64_t samples, bool input_gradient) {
  phase_ = phase;
  samples_ = samples;
  input_gradient_ = input_gradient;
  next_ = 0;
}

const plan::UnitCollective* DeclaredAxis::next() const {
  for (size_t i = next_; i < unit_.collectives.size(); ++i) {
    const plan::UnitCollective& collective = unit_.collectives[i];
    if (collective.phase == phase_ && (input_gradient_ || !collective.with_input_gradient))
      return &collective;
  }
  return nullptr;
}

void DeclaredAxis::run(const tensor::AxisCollective& collective) {
  const plan::UnitCollective* const declared = next();
  const plan::UnitCollective::Op op = op_of(collective.op);
  const std::string found = text_of(op, collective.bytes());
  if (declared == nullptr) deviate(unit_, phase_, "none", found);
  const int64_t bytes = bytes_of(*declared, samples_);
  if (declared->op != op || bytes != collective.bytes())
    deviate(unit_, phase_, text_of(declared->op, bytes), found);
  next_ = static_cast<size_t>(declared - unit_.collectives.data()) + 1;
  axis_.run(collective);
}

void DeclaredAxis::leave() {
  const plan::UnitCollective* const left = next();
  next_ = unit_.collectives.size();
  if (left == nullptr || size() == 1) return;
  deviate(unit_, phase_, text_of(left->op, bytes_of(*left, samples_)), "none");
}

}  // namespace furrow::nn
