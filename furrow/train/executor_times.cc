// When the instructions of a run ran, for its trace and for the profiler.
#include <fmt/format.h>

#include <string>

#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

std::string stream_name(plan::Stream stream) {
  switch (stream) {
    case plan::Stream::kCompute:
      return "compute";
    case plan::Stream::kCopy:
      return "copy";
    case plan::Stream::kComm:
      return "comm";
  }
  return "";
}

observe::TraceEvent trace_event(const ExecutorState& state, const BoundInstruction& step, int64_t start_ns,
                                int64_t duration_ns) {
  const plan::Instruction& i = *step.instruction;
  observe::TraceEvent event;
  event.category = std::string(plan::op_info(i.op).name);
  event.name =
      i.unit >= 0 ? fmt::format("{} {}", event.category, state.program.units[i.unit]) : event.category;
  event.stream = i.peer < 0 ? stream_name(i.stream)
                            : fmt::format("{} {}", i.op == plan::Op::kSend ? "to" : "from", i.peer);
  event.start_ns = start_ns;
  event.duration_ns = duration_ns;
  event.args = {{"step", fmt::format("{}", state.inputs->step)},
                {"microbatch", fmt::format("{}", i.microbatch)}};
  return event;
}

void record(const ExecutorState& state, const BoundInstruction& bound, const InstructionTime& time) {
  if (state.inputs->trace != nullptr)
    state.inputs->trace->push_back(trace_event(state, bound, time.start_ns, time.duration_ns));
  if (state.inputs->times != nullptr) state.inputs->times->push_back(time);
}

}  // namespace

// Two that were one pass have half of its time each.
void ExecutorState::note_landed(const Flight& flight, int64_t busy_ns) {
  const BoundInstruction* const gather = flight.bound->gather;
  int64_t start_ns = flight.work.started_ns();
  const auto add = [&](const BoundInstruction& bound, int64_t duration_ns) {
    record(*this, bound, {bound.index, start_ns, duration_ns, 0});
    start_ns += duration_ns;
  };
  add(*flight.bound, gather == nullptr ? busy_ns : busy_ns / 2);
  if (gather != nullptr) add(*gather, busy_ns - busy_ns / 2);
}

void ExecutorState::note(const BoundInstruction& bound, const InstructionTime& time) {
  if (!bound.flies()) record(*this, bound, time);  // else noted when it has landed
  if (inputs->after) inputs->after(bound.index);
}

}  // namespace furrow::train
