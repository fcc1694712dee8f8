// Forward and backward of every microbatch that the rank takes, in the order of the schedule's actions.  A
// world without a pipeline is a schedule of one rank and one stage.
#include <algorithm>
#include <map>
#include <utility>

#include "furrow/plan/draft.h"
#include "furrow/plan/pipeline.h"
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
    const UnitFacts& facts = draft_.facts.units[u];
    if (!facts.has_statistics) return;
    if (draft_.program.name == "train" && facts.folds) {
      forward.writes.push_back(bn_stats_value(u, m_));
    } else {
      forward.reads.push_back(stats_value(u, 0));
    }
  }

  void recompute(int32_t u) {
    Instruction& recompute = emit(Op::kRecompute, u);
    read_inputs(u, &recompute);
    recompute.writes = {saved_value(u, m_)};
  }

  void loss(int32_t h) {
    const Head& head = draft_.facts.heads[h];
    Instruction& loss = emit(Op::kLoss, -1);
    loss.reads = {act_value(head.unit, m_)};
    if (head.teacher >= 0) loss.reads.push_back(act_value(head.teacher, m_));
    loss.reads.push_back(batch_value(m_));
    if (draft_.scales_loss()) loss.reads.push_back(loss_scale_value(0, head.phase));
    loss.writes = {grad_value(head.unit, m_), loss_value(m_, h)};
  }

  void evaluate(int32_t h) {
    Instruction& evaluate = emit(Op::kEvaluate, -1);
    evaluate.reads = {act_value(draft_.facts.heads[h].unit, m_), batch_value(m_)};
    evaluate.writes = {loss_value(m_, h)};
  }

  void backward_input(int32_t u) {
    Instruction& input = emit(Op::kBackwardInput, u);
    input.reads = {grad_value(u, m_), saved_value(u, m_)};
    read_inputs(u, &input);
    const UnitFacts& facts = draft_.facts.units[u];
    if (facts.passes) input.writes.push_back(grad_value(facts.source, m_));
    if (facts.trains()) input.writes.push_back(deferred_value(u, m_));
  }

  void backward_weight(int32_t u) {
    const UnitFacts& facts = draft_.facts.units[u];
    if (!facts.trains()) return;
    Instruction& weight = emit(Op::kBackwardWeight, u);
    weight.reads = {deferred_value(u, m_), input_value(facts, m_)};
    if (facts.steps) weight.writes.push_back(gradient_value(u, 0, m_, m_ + 1));
    for (const TiedUse& tied : facts.ties) {
      weight.writes.push_back(gradient_value(tied.owner_unit, tied.use, m_, m_ + 1));
    }
  }

  void send(const Transfer& transfer) {
    Instruction& send = emit_transfer(Op::kSend, transfer, transfer.to);
    send.reads = {value_of(transfer)};
  }

  void receive(const Transfer& transfer) {
    Instruction& receive = emit_transfer(Op::kRecv, transfer, transfer.from);
    receive.writes = {value_of(transfer)};
  }

  Value value_of(const Transfer& transfer) const {
    return transfer.backward ? grad_value(transfer.unit, m_) : act_value(transfer.unit, m_);
  }

 private:
  Instruction& emit(Op op, int32_t unit) {
    Instruction& instruction = draft_.emit(op, unit);
    instruction.microbatch = m_;
    draft_.list.back().turn = turn_;
    draft_.list.back().ghost = m_ < 0;
    return instruction;
  }

  Instruction& emit_transfer(Op op, const Transfer& transfer, int peer) {
    Instruction& instruction = emit(op, transfer.unit);
    instruction.stream = Stream::kComm;
    instruction.axis = GroupAxis::kPipeline;
    instruction.peer = peer;
    return instruction;
  }

  void read_inputs(int32_t u, Instruction* instruction) const {
    std::vector<Value>& reads = instruction->reads;
    const UnitFacts& facts = draft_.facts.units[u];
    reads.push_back(input_value(facts, m_));
    if (facts.source >= 0) reads.push_back(batch_value(m_));  // the sample ids count random numbers
    reads.insert(reads.end(), facts.weights.begin(), facts.weights.end());
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

// Appends the actions of this rank, with what it sends and receives.
class Walk {
 public:
  Walk(const Schedule& schedule, const PipelineOptions& options, const std::vector<bool>& recompute,
       Draft* draft)
      : schedule_(schedule),
        self_(draft->placement().pipeline_rank()),
        phase_(draft->phase),
        recompute_(recompute),
        draft_(*draft),
        turns_(turns_of(*draft)),
        loaded_(turns_.size(), phase_ > 0) {  // batches stay until their last use
    if (schedule.ranks > 1) find_transfers(options.receives_ahead);
  }

  void run() {
    draft_.turns = static_cast<int32_t>(turns_.size());
    const std::vector<Action>& actions = schedule_.actions[self_];
    for (int32_t i = 0; i < static_cast<int32_t>(actions.size()); ++i) {
      for (const Transfer& transfer : received_[i]) turn(transfer.turn).receive(transfer);
      const size_t begin = draft_.list.size();
      perform(actions[i], i);
      acknowledge(i, begin);
    }
  }

 private:
  Turn turn(int32_t number) { return Turn(&draft_, number, turns_[number]); }

  void find_transfers(int32_t ahead) {
    for (int peer = 0; peer < schedule_.ranks; ++peer) {
      const int32_t trained = draft_.facts.first_trained;
      const auto out = transfers_between(schedule_, draft_.placement(), trained, self_, peer);
      const auto in = transfers_between(schedule_, draft_.placement(), trained, peer, self_);
      const std::vector<int32_t> positions = receive_positions(in, ahead);
      for (size_t i = 0; i < in.size(); ++i) received_[positions[i]].push_back(in[i]);
      for (const Transfer& transfer : out) {
        sent_[transfer.made] = transfer;
        find_acknowledgement(transfer, in);
      }
    }
  }

  // What the peer sends once it has taken a value says that it has: until then the value is kept.
  void find_acknowledgement(const Transfer& sent, const std::vector<Transfer>& in) {
    const auto answer = std::find_if(in.begin(), in.end(), [&](const Transfer& t) {
      return t.made >= sent.needed && turns_[t.turn] >= 0;
    });
    if (turns_[sent.turn] < 0) return;
    const Value value = turn(sent.turn).value_of(sent);
    if (answer == in.end()) {
      draft_.unacknowledged.push_back(value);
    } else {
      acknowledged_[answer->needed].push_back({turn(answer->turn).value_of(*answer), value});
    }
  }

  // The first instruction that reads the answer lets go of what was sent.
  void acknowledge(int32_t action, size_t begin) {
    for (const auto& [answer, value] : acknowledged_[action]) {
      for (size_t i = begin; i < draft_.list.size(); ++i) {
        const std::vector<Value>& reads = draft_.list[i].instruction.reads;
        if (std::find(reads.begin(), reads.end(), answer) == reads.end()) continue;
        draft_.list[i].releases.push_back(value);
        break;
      }
    }
  }

  void perform(const Action& action, int32_t position) {
    Turn turn = this->turn(action.turn);
    if (!loaded_[action.turn]) turn.load();
    loaded_[action.turn] = true;
    const Range units = units_of(action.stage);
    switch (action.phase) {
      case Phase::kForward:
        return forward(units, position, &turn);
      case Phase::kBackward:
      case Phase::kBackwardInput:
        return backward(units, action.phase == Phase::kBackward, position, &turn);
      case Phase::kBackwardWeight:
        for (int32_t u = units.end - 1; u >= units.begin; --u) {
          if (has_backward(u)) turn.backward_weight(u);
        }
    }
  }

  void forward(Range units, int32_t position, Turn* turn) {
    const bool training = draft_.program.name == "train", predicting = draft_.program.name == "predict";
    for (int32_t u = units.begin; u < units.end; ++u) {
      const UnitFacts& facts = draft_.facts.units[u];
      const bool asked = predicting ? facts.predicted : facts.evaluated;
      const bool runs = training ? facts.forward_phase == phase_ : asked;
      if (runs) turn->forward(u, training && facts.backward_phase >= 0 && !recomputes(u));
    }
    if (predicting) return;
    if (units.end < draft_.units()) return send(position, turn);
    for (const int32_t h : draft_.facts.heads_in(phase_)) training ? turn->loss(h) : turn->evaluate(h);
  }

  void backward(Range units, bool weights, int32_t position, Turn* turn) {
    for (int32_t u = units.end - 1; u >= units.begin; --u) {
      if (!has_backward(u)) continue;
      if (recomputes(u)) turn->recompute(u);
      turn->backward_input(u);
      if (u == units.begin) send(position, turn);
      if (weights) turn->backward_weight(u);
    }
  }

  void send(int32_t position, Turn* turn) {
    if (const auto sent = sent_.find(position); sent != sent_.end()) turn->send(sent->second);
  }

  Range units_of(int32_t stage) const {
    const std::vector<Stage>& stages = draft_.placement().stages;
    if (stages.empty()) return {0, draft_.units()};
    return {stages[stage].begin, stages[stage].end};
  }
  bool has_backward(int32_t u) const { return draft_.facts.units[u].backward_phase == phase_; }
  bool recomputes(int32_t u) const { return !recompute_.empty() && recompute_[u]; }

  const Schedule& schedule_;
  const int self_;  // pp coordinate
  const int32_t phase_;
  const std::vector<bool>& recompute_;
  Draft& draft_;
  const std::vector<int32_t> turns_;                   // microbatches
  std::vector<bool> loaded_;                           // by turn
  std::map<int32_t, std::vector<Transfer>> received_;  // by the action in front of which they are posted
  std::map<int32_t, Transfer> sent_;                   // by the action that makes it
  std::map<int32_t, std::vector<std::pair<Value, Value>>>
      acknowledged_;  // by action: an answer, what was sent
};

}  // namespace

void generate_training(const PipelineOptions& options, const std::vector<bool>& recompute, Draft* draft) {
  const auto turns = static_cast<int32_t>(turns_of(*draft).size());
  Walk(schedule_of(draft->placement().layout, options, turns), options, recompute, draft).run();
}

void generate_evaluation(const PipelineOptions& options, Draft* draft) {
  const auto turns = static_cast<int32_t>(turns_of(*draft).size());
  Walk(forward_schedule(draft->placement(), turns), options, {}, draft).run();
}

}  // namespace furrow::plan
