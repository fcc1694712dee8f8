#include "furrow/plan/compile.h"

#include <fmt/format.h>

#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/buffers.h"
#include "furrow/plan/unit_facts.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

constexpr size_t kMostMicrobatches = 1 << 20;

void check_layout(const Layout& layout) {
  if (layout.world() == 1) return;
  throw Error(
      ErrorCode::kUnimplemented,
      fmt::format(
          "a program runs on one rank, but the layout {} has {}: set every degree of [parallelism] to 1",
          layout.to_string(), layout.world()));
}

void check_sizes(const std::vector<int64_t>& sizes) {
  if (sizes.empty() || sizes.size() > kMostMicrobatches) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a program has 1 to {} microbatches, not {}", kMostMicrobatches, sizes.size()));
  }
  for (size_t m = 0; m < sizes.size(); ++m) {
    if (sizes[m] < 1 || sizes[m] > kMostMicrobatchSamples) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("microbatch {} has {} samples: it must have 1 to {}", m, sizes[m],
                              kMostMicrobatchSamples));
    }
  }
}

// Builds a program: validated spec, header, helpers that append instructions.
class Builder {
 public:
  Builder(const ModelSpec& spec, const Layout& layout, std::string name, std::vector<int64_t> sizes,
          int state_copies)
      : spec_(spec), state_copies_(state_copies) {
    validate(spec);
    check_layout(layout);
    if (state_copies < 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} optimizer states per unit: at least 0", state_copies));
    }
    facts_ = model_facts(spec);
    program_.name = std::move(name);
    program_.microbatch_sizes = std::move(sizes);
    for (const Unit& unit : spec.units) program_.units.push_back(unit.name);
  }

  Program train(const std::vector<bool>& recompute);
  Program evaluate();
  Program save();

 private:
  int32_t units() const { return static_cast<int32_t>(spec_.units.size()); }
  int32_t microbatches() const { return static_cast<int32_t>(program_.microbatch_sizes.size()); }

  Instruction& emit(Op op, int32_t unit = -1, int32_t microbatch = -1) {
    Instruction& instruction = program_.instructions.emplace_back();
    instruction.op = op;
    instruction.unit = unit;
    instruction.microbatch = microbatch;
    return instruction;
  }

  void read_inputs(int32_t u, int32_t m, Instruction* instruction) const;
  void load(int32_t m);
  void forward(int32_t u, int32_t m, bool save);
  void recompute(int32_t u, int32_t m);
  void loss(int32_t m);
  void backward(int32_t u, int32_t m);
  void add_nodes(int32_t u, int32_t use, int32_t microbatch);
  void add_node(int32_t u, int32_t use, int32_t begin, int32_t end);
  void add_tied(int32_t u);
  void measure(bool gradients);
  void clip();
  void step(int32_t u);
  void declare(bool with_state, int32_t version, std::vector<Value>* values);
  Program finish();

  const ModelSpec& spec_;
  const int state_copies_;
  ModelFacts facts_;
  Program program_;
};

void Builder::read_inputs(int32_t u, int32_t m, Instruction* instruction) const {
  std::vector<Value>& reads = instruction->reads;
  reads.push_back(input_value(u, m));
  if (u > 0) reads.push_back(batch_value(m));  // the sample ids count the unit's random numbers
  reads.insert(reads.end(), facts_.units[u].weights.begin(), facts_.units[u].weights.end());
}

void Builder::load(int32_t m) {
  Instruction& load = emit(Op::kLoad, -1, m);
  load.stream = Stream::kCopy;
  load.writes = {batch_value(m)};
}

void Builder::forward(int32_t u, int32_t m, bool save) {
  Instruction& forward = emit(Op::kForward, u, m);
  read_inputs(u, m, &forward);
  forward.writes = {act_value(u, m)};
  if (save) forward.writes.push_back(saved_value(u, m));
}

void Builder::recompute(int32_t u, int32_t m) {
  Instruction& recompute = emit(Op::kRecompute, u, m);
  read_inputs(u, m, &recompute);
  recompute.writes = {saved_value(u, m)};
}

void Builder::loss(int32_t m) {
  const int32_t last = units() - 1;
  Instruction& loss = emit(Op::kLoss, -1, m);
  loss.reads = {act_value(last, m), batch_value(m)};
  loss.writes = {grad_value(last, m), loss_value(m)};
}

void Builder::backward(int32_t u, int32_t m) {
  const UnitFacts& facts = facts_.units[u];
  Instruction& input = emit(Op::kBackwardInput, u, m);
  input.reads = {grad_value(u, m), saved_value(u, m)};
  read_inputs(u, m, &input);
  if (u > facts_.first_trained) input.writes.push_back(grad_value(u - 1, m));
  if (!facts.has_parameters()) return;
  input.writes.push_back(deferred_value(u, m));

  Instruction& weight = emit(Op::kBackwardWeight, u, m);
  weight.reads = {deferred_value(u, m), input_value(u, m)};
  if (facts.owns) weight.writes.push_back(gradient_value(u, 0, m, m + 1));
  for (const TiedUse& tied : facts.ties) {
    weight.writes.push_back(gradient_value(tied.owner_unit, tied.use, m, m + 1));
  }
  if (facts.owns) add_nodes(u, 0, m);
  for (const TiedUse& tied : facts.ties) add_nodes(tied.owner_unit, tied.use, m);
}

void Builder::add_node(int32_t u, int32_t use, int32_t begin, int32_t end) {
  const int32_t split = tree_split(begin, end);
  Instruction& add = emit(Op::kAdd, u);
  add.reads = {gradient_value(u, use, begin, split), gradient_value(u, use, split, end)};
  add.writes = {gradient_value(u, use, begin, end)};
}

// A binary counter: microbatch m ends the nodes of 2, 4, ... microbatches whose last leaf it is; the last
// microbatch also joins the left-over nodes from the right.
void Builder::add_nodes(int32_t u, int32_t use, int32_t m) {
  const int32_t end = m + 1;
  for (int32_t size = 2; end % size == 0; size *= 2) add_node(u, use, end - size, end);
  if (end != microbatches()) return;
  int32_t begin = end - (end & -end);
  while (begin > 0) {
    begin -= begin & -begin;
    add_node(u, use, begin, end);
  }
}

void Builder::add_tied(int32_t u) {
  Instruction& add = emit(Op::kAddTied, u);
  add.reads = {gradient_value(u, 0, 0, microbatches())};
  for (const TiedUse& tied : facts_.units[u].uses_by_others) {
    add.reads.push_back(gradient_value(u, tied.use, 0, microbatches()));
  }
  add.writes = {total_value(u)};
}

void Builder::measure(bool gradients) {
  Instruction& measure = emit(Op::kMeasure);
  for (int32_t u = 0; gradients && u < units(); ++u) {
    if (facts_.units[u].owns) measure.reads.push_back(final_gradient(facts_.units[u], u, microbatches()));
  }
  for (int32_t m = 0; m < microbatches(); ++m) measure.reads.push_back(loss_value(m));
  measure.writes = {sums_value(0)};
  program_.outputs.push_back(sums_value(0));
}

void Builder::clip() {
  Instruction& clip = emit(Op::kClip);
  clip.reads = {sums_value(0)};
  clip.writes = {scale_value()};
}

void Builder::step(int32_t u) {
  Instruction& step = emit(Op::kStep, u);
  step.predicate = Predicate::kFinite;
  step.reads = {params_value(u, 0)};
  step.writes = {params_value(u, 1)};
  if (state_copies_ > 0) {
    step.reads.push_back(state_value(u, 0));
    step.writes.push_back(state_value(u, 1));
  }
  step.reads.push_back(final_gradient(facts_.units[u], u, microbatches()));
  step.reads.push_back(scale_value());
}

void Builder::declare(bool with_state, int32_t version, std::vector<Value>* values) {
  for (int32_t u = 0; u < units(); ++u) {
    if (!facts_.units[u].owns) continue;
    values->push_back(params_value(u, version));
    if (with_state && state_copies_ > 0) values->push_back(state_value(u, version));
  }
}

Program Builder::train(const std::vector<bool>& recompute_units) {
  const int32_t first = facts_.first_trained;
  if (first == units()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("model {} has no parameters: there is nothing to train", spec_.architecture));
  }
  auto recomputes = [&](int32_t u) { return !recompute_units.empty() && recompute_units[u]; };
  declare(true, 0, &program_.inputs);
  for (int32_t m = 0; m < microbatches(); ++m) {
    load(m);
    for (int32_t u = 0; u < units(); ++u) forward(u, m, u >= first && !recomputes(u));
    loss(m);
    for (int32_t u = units() - 1; u >= first; --u) {
      if (recomputes(u)) recompute(u, m);
      backward(u, m);
    }
  }
  for (int32_t u = 0; u < units(); ++u) {
    if (!facts_.units[u].uses_by_others.empty()) add_tied(u);
  }
  measure(true);
  clip();
  for (int32_t u = 0; u < units(); ++u) {
    if (facts_.units[u].owns) step(u);
  }
  program_.outputs.push_back(scale_value());
  declare(true, 1, &program_.outputs);
  return finish();
}

Program Builder::evaluate() {
  declare(false, 0, &program_.inputs);
  for (int32_t m = 0; m < microbatches(); ++m) {
    load(m);
    for (int32_t u = 0; u < units(); ++u) forward(u, m, false);
    Instruction& evaluate = emit(Op::kEvaluate, -1, m);
    evaluate.reads = {act_value(units() - 1, m), batch_value(m)};
    evaluate.writes = {loss_value(m)};
  }
  measure(false);
  declare(false, 0, &program_.outputs);
  return finish();
}

Program Builder::save() {
  declare(true, 0, &program_.inputs);
  for (int32_t u = 0; u < units(); ++u) {
    if (!facts_.units[u].owns) continue;
    Instruction& snapshot = emit(Op::kSnapshot, u);
    snapshot.stream = Stream::kCopy;
    snapshot.reads = {params_value(u, 0)};
    if (state_copies_ > 0) snapshot.reads.push_back(state_value(u, 0));
    snapshot.writes = {snapshot_value(u)};
    program_.outputs.push_back(snapshot_value(u));
  }
  declare(true, 0, &program_.outputs);
  return finish();
}

Program Builder::finish() {
  assign_buffers(spec_, facts_.flat, state_copies_, &program_);
  verify(program_, spec_);
  return std::move(program_);
}

}  // namespace

Placement placement_for(const Layout& layout, const RankOptions& options, int32_t k) {
  if (options.zero_stage < 1 || options.zero_stage > 3) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("ZeRO stage {}: it must be 1, 2 or 3", options.zero_stage));
  }
  if (options.rank < 0 || options.rank >= layout.world()) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("rank {} of {}", options.rank, layout.world()));
  }
  Placement placement{layout, options.rank, 0, TreeKind::kCanonical};
  if (placement.shards() > 1) placement.zero_stage = options.zero_stage;
  const bool by_ranks = options.deterministic == Deterministic::kOff ||
                        (options.deterministic == Deterministic::kAuto && !is_aligned(placement, k));
  if (by_ranks && placement.data_ranks() > 1) placement.tree = TreeKind::kByRanks;
  return placement;
}

Program compile_train(const ModelSpec& spec, const Layout& layout, const TrainOptions& options) {
  check_sizes(options.microbatch_sizes);
  if (!options.recompute.empty() && options.recompute.size() != spec.units.size()) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("recompute has {} entries for {} units",
                                                         options.recompute.size(), spec.units.size()));
  }
  Builder builder(spec, layout, "train", options.microbatch_sizes, options.optimizer_state_copies);
  return builder.train(options.recompute);
}

Program compile_evaluate(const ModelSpec& spec, const Layout& layout,
                         const std::vector<int64_t>& microbatch_sizes, const RankOptions&) {
  check_sizes(microbatch_sizes);
  return Builder(spec, layout, "evaluate", microbatch_sizes, 0).evaluate();
}

Program compile_save(const ModelSpec& spec, const Layout& layout, const TrainOptions& options) {
  return Builder(spec, layout, "save", {}, options.optimizer_state_copies).save();
}

}  // namespace furrow::plan
