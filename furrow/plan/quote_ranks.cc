#include "furrow/plan/quote_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "furrow/base/text.h"
#include "furrow/plan/buckets.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/value_bytes.h"
#include "furrow/plan/workspace.h"

namespace furrow::plan {
namespace {

// Elements that members of a group receive.
struct Received {
  int64_t self = 0;
  int64_t all = 0;
  int64_t least = 0;  // all, if nobody sent more than one node
};

struct Undivided {
  int64_t parameters = 0, gradients = 0, optimizer = 0, teacher = 0;
};

class RanksQuote {
 public:
  RanksQuote(const Program& program, const ModelSpec& spec)
      : program_(program),
        place_(program.placement),
        model_(model_facts(spec)),
        bytes_{spec, model_.flat, program.microbatch_sizes, place_, program.states} {}

  std::vector<CollectiveQuote> collectives() const {
    std::map<std::pair<Op, GroupAxis>, CollectiveQuote> quotes;
    const std::vector<int32_t> ends = run_ends(model_.flat, program_);
    for (size_t i = 0; i < ends.size(); ++i) {
      const Instruction& instruction = program_.instructions[i];
      if (instruction.stream != Stream::kComm || instruction.op == Op::kSend) continue;
      CollectiveQuote& quote = quotes[{instruction.op, instruction.axis}];
      quote.op = instruction.op;
      quote.axis = instruction.axis;
      quote.count += ends[i] == static_cast<int32_t>(i) ? 1 : 0;
      const bool transfer = instruction.op == Op::kRecv;
      const auto members = transfer ? 1.0 : static_cast<double>(group_ranks(place_, instruction.axis).size());
      const Received bytes = received(instruction);
      quote.wire_bytes += bytes.self;
      quote.mean_bytes += static_cast<double>(bytes.all) / members;
      quote.bound_bytes += static_cast<double>(bytes.least) / members;
    }
    for (const Instruction& instruction : program_.instructions) add_inside(instruction, &quotes);
    std::vector<CollectiveQuote> list;
    for (const auto& [key, quote] : quotes) list.push_back(quote);
    return list;
  }

  std::vector<CopyQuote> copies() const {
    std::vector<CopyQuote> list;
    for (const Op op : {Op::kCopyDown, Op::kCopyUp}) {
      CopyQuote quote{op};
      for (const Instruction& instruction : program_.instructions) {
        if (instruction.op != op) continue;
        ++quote.count;
        quote.bytes += copied_bytes(bytes_, instruction);
      }
      if (quote.count > 0) list.push_back(quote);
    }
    return list;
  }

  std::vector<MemoryItem> memory() const {
    std::map<int32_t, std::string> names;  // by slot
    for (const SlotAssignment& assignment : program_.assignments) {
      const Value& value = assignment.value;
      if (!is_persistent(value.kind)) continue;
      std::string& name = names[assignment.slot];
      if (value.kind == ValueKind::kStats || value.kind == ValueKind::kLossScale) {
        name = value.kind == ValueKind::kStats ? "other, statistics" : "other, loss scale";
      } else if (memory_kind(value.kind) != MemoryKind::kGradients) {
        const bool teacher = value.kind == ValueKind::kParams && bytes_.spec.units[value.unit].inference;
        name = teacher ? "teacher" : to_string(memory_kind(value.kind));
        if (value.kind == ValueKind::kHosted) name = "gradients and parameters, on the host";
      } else if (value.kind == ValueKind::kLeaf || value.kind == ValueKind::kWide) {
        name = "gradients, of a unit in float32";
      } else if (value == final_of(value.unit)) {
        name = "gradients, final";
      } else if (name.empty()) {
        name = "gradients, nodes and exchanges";
      }
    }
    std::map<std::string, MemoryItem> items;
    for (const auto& [slot, name] : names) {
      MemoryItem& item = items[name];
      item.kind = program_.slots[slot].kind;
      item.name = name;
      item.bytes += program_.slots[slot].bytes;
    }
    std::vector<MemoryItem> list;
    for (auto& [name, item] : items) list.push_back(std::move(item));
    if (const int64_t bytes = exchange_staging_bytes(program_, bytes_.spec); bytes > 0)
      list.push_back({MemoryKind::kOther, "other, nodes of other ranks on their way", bytes});
    return list;
  }

  // Of the rank's own units, before ZeRO divides them; of parameters, with what its units tie.
  Undivided undivided() const {
    Undivided bytes;
    for (int32_t u = 0; u < static_cast<int32_t>(model_.units.size()); ++u) {
      const UnitLayout& unit = model_.flat.units[u];
      int64_t& params = bytes_.spec.units[u].inference ? bytes.teacher : bytes.parameters;
      if (keeps_params(model_, place_, u)) params += unit.elements * unit.param_bytes();
      if (!place_.holds(u)) continue;
      bytes.gradients += unit.trained_elements * model_.flat.gradient_bytes();
      bytes.optimizer += state_bytes(program_.states, unit, {0, unit.elements}) +
                         unit.trained_elements * kFloatBytes * unit.masters();
    }
    return bytes;
  }

 private:
  // Under the operation of the instruction that it is a part of.
  void add_inside(const Instruction& instruction,
                  std::map<std::pair<Op, GroupAxis>, CollectiveQuote>* quotes) const {
    for (const UnitCollective& each : collectives_in(bytes_.spec, instruction)) {
      CollectiveQuote& quote = (*quotes)[{instruction.op, GroupAxis::kTensor}];
      const int64_t whole = each.bytes(program_.microbatch_sizes[instruction.microbatch]);
      const int64_t bytes = received_bytes(each.op, whole, place_.tensor_ranks());
      quote.op = instruction.op;
      quote.axis = GroupAxis::kTensor;
      ++quote.count;
      quote.wire_bytes += bytes;
      quote.mean_bytes += static_cast<double>(bytes);
      quote.bound_bytes += static_cast<double>(bytes);
    }
  }

  Value final_of(int32_t unit) const {
    const auto k = static_cast<int32_t>(program_.microbatch_sizes.size());
    return final_gradient(model_.units[unit], unit, k, place_.step_part());
  }

  Received received(const Instruction& instruction) const {
    if (instruction.op == Op::kGatherStats) return of_statistics(instruction);
    if (instruction.op == Op::kReduceScalar) return of_sums(group_ranks(place_, instruction.axis).size());
    if (instruction.op == Op::kReduceGrads) return of_exchange(instruction);
    if (instruction.op == Op::kRecv) {
      const int64_t all = value_bytes(bytes_, instruction.writes[0]);
      return {all, all, all};
    }
    Received bytes;  // a gather: everything but one's own slice
    const std::vector<int> ranks = group_ranks(place_, instruction.axis);
    const std::vector<Slice> slices =
        member_slices(model_.flat, place_, buffer_of(instruction), instruction.axis);
    const int64_t element = element_bytes(model_.flat, instruction.writes.front());
    int64_t whole = 0;
    for (const Slice& slice : slices) whole += slice.size() * element;
    for (size_t i = 0; i < slices.size(); ++i) {
      const int64_t others = whole - slices[i].size() * element;
      bytes.all += others;
      if (ranks[i] == place_.rank) bytes.self = others;
    }
    bytes.least = bytes.all;
    return bytes;
  }

  Received of_sums(size_t members) const {
    const auto n = static_cast<int64_t>(members);
    const int64_t others = (n - 1) * kSumsBytes;
    return {others, n * others, n * others};
  }

  // A member receives what it does not bring itself.
  Received of_statistics(const Instruction& instruction) const {
    const auto bytes_of = [&](const std::vector<Value>& values) {
      int64_t bytes = 0;
      for (const Value& value : values)
        bytes += model_.flat.units[value.unit].statistic_elements * kFloatBytes;
      return bytes;
    };
    const int64_t self = bytes_of(instruction.writes);
    const int64_t whole = self + bytes_of(instruction.reads);
    const auto members = static_cast<int64_t>(group_ranks(place_, instruction.axis).size());
    return {self, (members - 1) * whole, (members - 1) * whole};
  }

  // A member receives its slice of every node of every other member.
  Received of_exchange(const Instruction& instruction) const {
    const Exchange exchange = exchange_of(program_, instruction);
    const std::vector<Slice> slices =
        member_slices(model_.flat, place_, buffer_of(instruction), instruction.axis);
    Received bytes;
    for (size_t i = 0; i < slices.size(); ++i) {
      for (size_t j = 0; j < slices.size(); ++j) {
        if (i == j) continue;
        const auto nodes = static_cast<int64_t>(exchange.nodes[j].size());
        const int64_t slice = slices[i].size() * model_.flat.gradient_bytes();
        bytes.all += slice * nodes;
        bytes.least += slice * std::min<int64_t>(nodes, 1);
        if (i == exchange.self) bytes.self += slice * nodes;
      }
    }
    return bytes;
  }

  const Program& program_;
  const Placement& place_;
  const ModelFacts model_;
  const ByteContext bytes_;
};

MemoryFormula with_teacher(MemoryFormula formula) {
  if (formula.teacher > 0) formula.text.insert(formula.text.find('p') + 1, "+t");
  return formula;
}

MemoryFormula formula_of(const Placement& place, const Undivided& whole) {
  const double n = place.shards();
  MemoryFormula formula{"p+g+o", static_cast<double>(whole.parameters), static_cast<double>(whole.gradients),
                        static_cast<double>(whole.optimizer), static_cast<double>(whole.teacher)};
  if (place.zero_stage == 0) return with_teacher(std::move(formula));
  formula.optimizer /= n;
  if (place.zero_stage >= 2) formula.gradients /= n;
  if (place.zero_stage == 3) {
    formula.parameters /= n;
    formula.teacher /= n;
  }
  const char* texts[] = {"p+g+o/{}", "p+(g+o)/{}", "(p+g+o)/{}"};
  formula.text = fmt::format(fmt::runtime(texts[place.zero_stage - 1]), place.shards());
  return with_teacher(std::move(formula));
}

}  // namespace

namespace {

std::string shown(double bytes) { return format_bytes(static_cast<uint64_t>(bytes)); }

std::string line_of_data(const Placement& placement, int32_t k, const std::optional<TreeCost>& cost) {
  if (placement.data_ranks() == 1 && placement.pipeline_ranks() > 1)
    return "on: every stage adds along the canonical tree: the bits of one rank";
  if (placement.data_ranks() == 1)
    return "one rank, canonical tree: the bits that every aligned layout gives";
  const bool aligned = is_aligned(placement, k);
  if (placement.tree == TreeKind::kByRanks) {
    return fmt::format(
        "off: gradients are added by ranks{}, so this layout has bits of its own{}",
        aligned ? "" : fmt::format(", as the shares of {} microbatches are not aligned", k),
        cost ? fmt::format("; strict would bring a rank {} a step where this brings {} ({:.2f} times)",
                           shown(cost->strict_bytes), shown(cost->off_bytes),
                           cost->strict_bytes / cost->off_bytes)
             : "");
  }
  if (aligned) return "on: aligned shares, canonical tree: the bits of one rank, at no cost";
  return fmt::format(
      "on: canonical tree: the bits of one rank; the shares of {} microbatches are not aligned, so ranks "
      "send more than one node each{}",
      k,
      cost ? fmt::format(": {} a step come to a rank where off brings {} ({:.2f} times)",
                         shown(cost->strict_bytes), shown(cost->off_bytes),
                         cost->strict_bytes / cost->off_bytes)
           : "");
}

}  // namespace

std::optional<TreeCost> tree_cost(const ModelSpec& spec, const Layout& layout, const TrainOptions& options) {
  TrainOptions strict = options;
  strict.ranks.deterministic = Deterministic::kStrict;
  const auto k = static_cast<int32_t>(options.microbatch_sizes.size());
  const Placement placement = placement_for(spec, layout, strict.ranks, k);
  if (placement.data_ranks() == 1 || is_aligned(placement, k)) return std::nullopt;
  const Program program = compile_train(spec, layout, strict);
  TreeCost cost;
  for (const CollectiveQuote& each : RanksQuote(program, spec).collectives()) {
    cost.strict_bytes += each.mean_bytes;
    cost.off_bytes += each.bound_bytes;
  }
  return cost;
}

std::string deterministic_line(const Placement& placement, int32_t k, const std::optional<TreeCost>& cost) {
  const std::string line = line_of_data(placement, k, cost);
  if (placement.tensor_ranks() == 1) return line;
  return fmt::format(
      "tp {}: sums have an order of their own, within the stated bound of one rank's; beside it {}",
      placement.tensor_ranks(),
      placement.data_ranks() * placement.pipeline_ranks() == 1 ? "there is no axis" : line);
}

void quote_ranks(const Program& program, const ModelSpec& spec, Quote* quote) {
  const RanksQuote ranks(program, spec);
  const Placement& place = program.placement;
  const Undivided whole = ranks.undivided();
  const auto k = static_cast<int32_t>(program.microbatch_sizes.size());
  quote->placement = place;
  quote->deterministic = deterministic_line(place, k);
  quote->collectives = ranks.collectives();
  quote->copies = ranks.copies();
  if (flat_layout(spec).offloads())
    quote->host_bytes = quote->peak_bytes[static_cast<size_t>(MemoryKind::kOptimizer)];
  quote->memory = ranks.memory();
  quote->formula = formula_of(place, whole);
  const double n = place.data_ranks();
  quote->data_parallel_bytes = 2 * (n - 1) / n * static_cast<double>(whole.gradients);
}

}  // namespace furrow::plan
