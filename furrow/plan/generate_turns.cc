// Forward and backward of every microbatch that the rank takes, one after the other.
#include "furrow/plan/draft.h"
#include "furrow/plan/share.h"

namespace furrow::plan {
namespace {

// Appends the instructions of one microbatch; of a ghost where m is -1.
class Turn {
 public:
  Turn(Draft* draft, int32_t turn, int32_t m) : draft_(*draft), turn_(turn), m_(m) {}

  void load() {
    Instruction& load = emit(Op::kLoad, -1);
    load.stream = Stream::kCopy;
    load.writes = {batch_value(m_)};
  }

  void forward(int32_t u, bool save) {
    Instruction& forward = emit(Op::kForward, u);
    read_inputs(u, &forward);
    forward.writes = {act_value(u, m_)};
    if (save) forward.writes.push_back(saved_value(u, m_));
  }

  void recompute(int32_t u) {
    Instruction& recompute = emit(Op::kRecompute, u);
    read_inputs(u, &recompute);
    recompute.writes = {saved_value(u, m_)};
  }

  void loss() {
    const int32_t last = draft_.units() - 1;
    Instruction& loss = emit(Op::kLoss, -1);
    loss.reads = {act_value(last, m_), batch_value(m_)};
    loss.writes = {grad_value(last, m_), loss_value(m_)};
  }

  void evaluate() {
    Instruction& evaluate = emit(Op::kEvaluate, -1);
    evaluate.reads = {act_value(draft_.units() - 1, m_), batch_value(m_)};
    evaluate.writes = {loss_value(m_)};
  }

  void backward(int32_t u) {
    const UnitFacts& facts = draft_.facts.units[u];
    Instruction& input = emit(Op::kBackwardInput, u);
    input.reads = {grad_value(u, m_), saved_value(u, m_)};
    read_inputs(u, &input);
    if (u > draft_.facts.first_trained) input.writes.push_back(grad_value(u - 1, m_));
    if (!facts.trains()) return;
    input.writes.push_back(deferred_value(u, m_));

    Instruction& weight = emit(Op::kBackwardWeight, u);
    weight.reads = {deferred_value(u, m_), input_value(u, m_)};
    if (facts.steps) weight.writes.push_back(gradient_value(u, 0, m_, m_ + 1));
    for (const TiedUse& tied : facts.ties) {
      weight.writes.push_back(gradient_value(tied.owner_unit, tied.use, m_, m_ + 1));
    }
  }

 private:
  Instruction& emit(Op op, int32_t unit) {
    Instruction& instruction = draft_.emit(op, unit);
    instruction.microbatch = m_;
    draft_.list.back().turn = turn_;
    draft_.list.back().ghost = m_ < 0;
    return instruction;
  }

  void read_inputs(int32_t u, Instruction* instruction) const {
    std::vector<Value>& reads = instruction->reads;
    reads.push_back(input_value(u, m_));
    if (u > 0) reads.push_back(batch_value(m_));  // the sample ids count the unit's random numbers
    const std::vector<Value>& weights = draft_.facts.units[u].weights;
    reads.insert(reads.end(), weights.begin(), weights.end());
  }

  Draft& draft_;
  const int32_t turn_;
  const int32_t m_;
};

// The rank's microbatches; -1 for a turn that only others of its shard group have.
std::vector<int32_t> turns_of(const Draft& draft) {
  std::vector<int32_t> turns = microbatches_of(draft.placement(), draft.microbatches());
  if (draft.placement().reduces_each_microbatch()) {
    turns.resize(static_cast<size_t>(rounds_of(draft.placement(), draft.microbatches())), -1);
  }
  return turns;
}

}  // namespace

void generate_training(const std::vector<bool>& recompute_units, Draft* draft) {
  const auto recomputes = [&](int32_t u) { return !recompute_units.empty() && recompute_units[u]; };
  const int32_t first = draft->facts.first_trained;
  int32_t number = 0;
  for (const int32_t m : turns_of(*draft)) {
    Turn turn(draft, number++, m);
    turn.load();
    for (int32_t u = 0; u < draft->units(); ++u) turn.forward(u, u >= first && !recomputes(u));
    turn.loss();
    for (int32_t u = draft->units() - 1; u >= first; --u) {
      if (recomputes(u)) turn.recompute(u);
      turn.backward(u);
    }
  }
}

void generate_evaluation(Draft* draft) {
  int32_t number = 0;
  for (const int32_t m : turns_of(*draft)) {
    Turn turn(draft, number++, m);
    turn.load();
    for (int32_t u = 0; u < draft->units(); ++u) turn.forward(u, false);
    turn.evaluate();
  }
}

}  // namespace furrow::plan
