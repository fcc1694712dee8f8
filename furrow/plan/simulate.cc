#include "furrow/plan/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/simulator.h"

namespace furrow::plan {
namespace {

using simulation::Flows;
using simulation::LoadedProgram;
using simulation::Step;

constexpr double kNever = std::numeric_limits<double>::infinity();

// Communication or a copy that a rank has started.
struct Flight {
  int32_t flow = -1;
  const Step* step = nullptr;
  int32_t instruction = -1;
  bool landed = false;
};

// One rank's thread, walking its program.
struct Thread {
  LoadedProgram loaded;
  size_t next = 0;  // instruction
  std::vector<int32_t> flight_of_slot;
  std::vector<Flight> flights;
  size_t drained = 0;        // flights that the end of the program has landed
  double behind_s = 0;       // how far the device is behind at the start
  double device_free_s = 0;  // when the device has done what it was told
  int32_t waits = -1;        // for a flow
  bool waits_copy = false;   // ... of a copy
  double since_s = 0;        // ... and from when
  bool ended = false;
  double ended_s = 0;
  std::array<int64_t, kMemoryKinds> live{};
  std::vector<SimulatedSpan> work;  // of the thread, in order
  std::vector<MemoryPoint> memory;
  SimulatedRank result;
};

class Simulator {
 public:
  // `behind_s`: by program, how far its device is behind at the start.
  Simulator(std::span<const Program> programs, const ModelSpec& spec, const Costs& costs,
            const SimulateOptions& options, const std::vector<double>& behind_s)
      : costs_(costs), options_(options), flows_(ranks_of(programs), resources(costs.cluster())) {
    const int world = programs.front().placement.layout.world();
    FURROW_CHECK(world <= costs.cluster().world(), "a world larger than the cluster");
    represents_ = world / static_cast<int>(programs.size());
    FURROW_CHECK(represents_ * static_cast<int>(programs.size()) == world,
                 "all ranks, or one for each stage");
    threads_.resize(programs.size());
    for (size_t i = 0; i < programs.size(); ++i) {
      Thread& thread = threads_[i];
      thread.loaded = simulation::load_program(programs[i], spec, costs, represents_);
      thread.flight_of_slot.assign(programs[i].slots.size(), -1);
      thread.live = thread.loaded.persistent;
      thread.behind_s = thread.device_free_s = behind_s[i];
      thread.result.rank = programs[i].placement.rank;
      thread.result.peak_bytes = thread.live;
      count_memory(thread);
    }
  }

  Simulation run() {
    for (size_t i = 0; i < threads_.size(); ++i) ready_.emplace(0.0, static_cast<int32_t>(i));
    while (true) {
      const double thread_s = ready_.empty() ? kNever : ready_.top().first;
      const double flow_s = flows_.next_s(now_);
      const double then = std::min(thread_s, flow_s);
      if (then == kNever) break;
      wake(flows_.advance(now_, then));
      now_ = then;
      resume();
    }
    for (const Thread& thread : threads_) {
      if (!thread.ended) throw stuck();
    }
    return report();
  }

  // By program, how far its device is behind at the end.
  std::vector<double> behind_s() const {
    std::vector<double> all;
    for (const Thread& thread : threads_) all.push_back(std::max(0.0, thread.device_free_s - thread.ended_s));
    return all;
  }

 private:
  static std::vector<int> ranks_of(std::span<const Program> programs) {
    FURROW_CHECK(!programs.empty(), "a simulation needs a program");
    std::vector<int> ranks;
    for (const Program& program : programs) ranks.push_back(program.placement.rank);
    return ranks;
  }

  static size_t resources(const Cluster& cluster) {
    return static_cast<size_t>(cluster.hosts) + static_cast<size_t>(cluster.world());
  }

  // Threads that waited for what has ended.
  void wake(const std::vector<int32_t>& ended) { woken_.insert(woken_.end(), ended.begin(), ended.end()); }

  void resume() {
    while (true) {
      const std::vector<int32_t> ended = std::exchange(woken_, {});
      for (size_t i = 0; i < threads_.size(); ++i) {
        Thread& thread = threads_[i];
        if (thread.waits < 0 || !flows_.done(thread.waits)) continue;
        (thread.waits_copy ? thread.result.copying_s : thread.result.exposed_s) += now_ - thread.since_s;
        thread.waits = -1;
        ready_.emplace(now_, static_cast<int32_t>(i));
      }
      if (ready_.empty() || ready_.top().first > now_) return;
      const int32_t next = ready_.top().second;
      ready_.pop();
      walk(next);
    }
  }

  // Goes on until the thread works, waits or has ended.
  void walk(int32_t number) {
    Thread& thread = threads_[number];
    const std::vector<Step>& steps = thread.loaded.steps;
    while (thread.next < steps.size()) {
      const Step& step = steps[thread.next];
      if (!settle(number, step)) return;
      const auto instruction = static_cast<int32_t>(thread.next++);
      if (step.flies) {
        if (!start(number, step, instruction)) return;
        continue;
      }
      if (compute(number, instruction, step)) return;
    }
    drain(number);
  }

  // Lands what the instruction must wait for; false: the thread has something else to do first.
  bool settle(int32_t number, const Step& step) {
    Thread& thread = threads_[number];
    for (const int32_t slot : step.touches) {
      const int32_t at = thread.flight_of_slot[slot];
      if (at < 0) continue;
      const Flight& flight = thread.flights[at];
      const bool follows = step.flies && step.lane == flight.step->lane;
      if (!flight.landed && follows && !flight.step->waits_to_land) continue;
      if (!flight.landed && !land(number, at)) return false;
      thread.flight_of_slot[slot] = -1;
    }
    return true;
  }

  // False: the thread waits for it, or is busy with what is left to do.
  bool land(int32_t number, int32_t at) {
    Flight& flight = threads_[number].flights[at];
    if (!flows_.done(flight.flow)) return wait(number, flight.flow, *flight.step);
    flight.landed = true;
    return !work(number, flight.instruction, flight.step->seconds);
  }

  bool wait(int32_t number, int32_t flow, const Step& step) {
    threads_[number].waits = flow;
    threads_[number].waits_copy = step.lane.copies;
    threads_[number].since_s = now_;
    return false;
  }

  bool start(int32_t number, const Step& step, int32_t instruction) {
    Thread& thread = threads_[number];
    const bool inlined = step.inlined && flows_.idle(number, step.lane);
    const int32_t flow = flows_.arrive(number, step, now_, thread.device_free_s);
    const auto at = static_cast<int32_t>(thread.flights.size());
    thread.flights.push_back({flow, &step, instruction, false});
    for (const int32_t slot : step.touches) thread.flight_of_slot[slot] = at;
    thread.result.received_bytes += step.self_bytes;
    wire_bytes_ += step.mean_bytes * represents_;
    touch_memory(thread, step, now_, instruction);
    if (!inlined || flows_.done(flow)) return true;
    return wait(number, flow, step);
  }

  // By the thread, or by the device behind it; false: the thread has gone on at once.
  bool compute(int32_t number, int32_t instruction, const Step& step) {
    if (step.device_s <= 0 && !step.awaited) return work(number, instruction, step.seconds);
    Thread& thread = threads_[number];
    const double told_s = now_ + step.seconds;
    const double start_s = std::max(thread.device_free_s, step.awaited ? told_s : now_);
    const double done_s = std::max(start_s + step.device_s, told_s);
    thread.device_free_s = done_s;
    thread.work.push_back({number, instruction, now_, told_s, true});
    note_work(thread, step, {number, instruction, start_s, done_s});
    return busy_until(number, step.awaited ? done_s : told_s);
  }

  // The thread is busy; false: for no time.
  bool work(int32_t number, int32_t instruction, double seconds) {
    Thread& thread = threads_[number];
    note_work(thread, thread.loaded.steps[instruction], {number, instruction, now_, now_ + seconds});
    return busy_until(number, now_ + seconds);
  }

  void note_work(Thread& thread, const Step& step, const SimulatedSpan& span) {
    thread.work.push_back(span);
    thread.result.compute_s += span.end_s - span.start_s - step.inside_s;
    if (step.flies) return;
    touch_memory(thread, step, span.end_s, span.instruction);
    thread.result.exposed_s += step.inside_s;
    thread.result.received_bytes += step.self_bytes;
    wire_bytes_ += step.mean_bytes * represents_;
  }

  bool busy_until(int32_t number, double then_s) {
    if (then_s <= now_) return false;
    ready_.emplace(then_s, number);
    return true;
  }

  void drain(int32_t number) {
    Thread& thread = threads_[number];
    for (; thread.drained < thread.flights.size(); ++thread.drained) {
      if (thread.flights[thread.drained].landed) continue;
      if (!land(number, static_cast<int32_t>(thread.drained))) return;
    }
    thread.ended = true;
    thread.ended_s = now_;
    thread.result.end_s = std::max(now_, thread.device_free_s - thread.behind_s);
  }

  void touch_memory(Thread& thread, const Step& step, double end_s, int32_t instruction) {
    for (size_t k = 0; k < kMemoryKinds; ++k) thread.live[k] += step.written[k];
    count_memory(thread);
    for (size_t k = 0; k < kMemoryKinds; ++k) thread.live[k] -= step.dropped[k];
    if (options_.memory) thread.memory.push_back({end_s, instruction, thread.live});
  }

  static void count_memory(Thread& thread) {
    int64_t total = 0;
    for (size_t k = 0; k < kMemoryKinds; ++k) {
      thread.result.peak_bytes[k] = std::max(thread.result.peak_bytes[k], thread.live[k]);
      const bool host = thread.loaded.host_optimizer && k == static_cast<size_t>(MemoryKind::kOptimizer);
      if (!host) total += thread.live[k];
    }
    thread.result.peak_total_bytes = std::max(thread.result.peak_total_bytes, total);
  }

  Error stuck() const {
    std::string text = "the programs wait for each other:";
    for (const Thread& thread : threads_) {
      if (thread.ended) continue;
      const size_t at = std::min(thread.next, thread.loaded.steps.size() - 1);
      text += fmt::format(" rank {} at #{} {};", thread.result.rank, at,
                          to_string(*thread.loaded.steps[at].instruction));
    }
    text.pop_back();
    return Error(ErrorCode::kFailedPrecondition, text);
  }

  Simulation report() {
    Simulation simulation;
    for (const Thread& thread : threads_)
      simulation.step_s = std::max(simulation.step_s, thread.result.end_s);
    simulation.wire_bytes = std::llround(wire_bytes_);
    report_bubble(&simulation);
    for (const Thread& thread : threads_) {
      if (simulation.step_s > 0) add_waiting(thread.result, &simulation);
      simulation.ranks.push_back(thread.result);
    }
    report_resources(&simulation);
    report_cost(&simulation);
    if (options_.timeline) report_spans(&simulation);
    if (options_.memory) {
      for (Thread& thread : threads_) simulation.memory.push_back(std::move(thread.memory));
    }
    return simulation;
  }

  // Shares of the step, in the mean of the ranks.
  void add_waiting(const SimulatedRank& rank, Simulation* simulation) const {
    const auto ranks = static_cast<double>(threads_.size());
    simulation->exposed_communication += rank.exposed_s / simulation->step_s / ranks;
    simulation->exposed_copies += rank.copying_s / simulation->step_s / ranks;
  }

  // From the first forward to the last weight gradient; to the end where there is none.
  std::pair<double, double> window() const {
    double begin = kNever, end = 0, last = 0;
    for (const Thread& thread : threads_) {
      for (const SimulatedSpan& span : thread.work) {
        if (span.launch) continue;
        const Op op = thread.loaded.steps[span.instruction].instruction->op;
        if (op == Op::kForward) begin = std::min(begin, span.start_s);
        if (op == Op::kBackwardWeight) end = std::max(end, span.end_s);
        last = std::max(last, span.end_s);
      }
    }
    return {begin == kNever ? 0 : begin, end > 0 ? end : last};
  }

  // Forward, recompute and both halves of backward.
  static bool computes(const Step& step) {
    const Work work = work_of(step.instruction->op);
    return work == Work::kForward || work == Work::kBackwardInput || work == Work::kBackwardWeight;
  }

  void report_bubble(Simulation* simulation) {
    const auto [begin, end] = window();
    if (end <= begin) return;
    double busy = 0;
    for (Thread& thread : threads_) {
      double own = 0;
      for (const SimulatedSpan& span : thread.work) {
        const Step& step = thread.loaded.steps[span.instruction];
        if (computes(step) && !span.launch)
          own += std::max(0.0, std::min(span.end_s, end) - std::max(span.start_s, begin) - step.inside_s);
      }
      thread.result.bubble = 1 - own / (end - begin);
      busy += own;
    }
    simulation->bubble = 1 - busy / (end - begin) / static_cast<double>(threads_.size());
  }

  void report_resources(Simulation* simulation) const {
    for (size_t r = 0; r < flows_.use().size(); ++r) {
      const Flows::Use& use = flows_.use()[r];
      if (use.bytes > 0)
        simulation->resources.push_back(
            {resource_name(costs_.cluster(), static_cast<int32_t>(r)), use.bytes, use.busy_s});
    }
  }

  void report_cost(Simulation* simulation) const {
    const Cluster& cluster = costs_.cluster();
    const int world = represents_ * static_cast<int>(threads_.size());
    const int hosts = (world + cluster.devices - 1) / cluster.devices;
    const double hours = simulation->step_s / 3600 * hosts;
    simulation->cost = hours * cluster.price.on_demand_per_host_hour;
    simulation->spot_cost = hours * cluster.price.spot_per_host_hour;
  }

  void report_spans(Simulation* simulation) const {
    for (size_t i = 0; i < threads_.size(); ++i) {
      const Thread& thread = threads_[i];
      for (const SimulatedSpan& span : thread.work) {
        if (!thread.loaded.steps[span.instruction].flies) simulation->spans.push_back(span);
      }
      for (const Flight& flight : thread.flights)
        simulation->spans.push_back({static_cast<int32_t>(i), flight.instruction, flows_.start_s(flight.flow),
                                     flows_.end_s(flight.flow)});
    }
    std::ranges::stable_sort(simulation->spans, {}, &SimulatedSpan::start_s);
  }

  const Costs& costs_;
  const SimulateOptions options_;
  int represents_ = 1;
  Flows flows_;
  std::vector<Thread> threads_;
  std::vector<int32_t> woken_;
  using Ready = std::pair<double, int32_t>;  // time, thread
  std::priority_queue<Ready, std::vector<Ready>, std::greater<>> ready_;
  double now_ = 0;
  double wire_bytes_ = 0;
};

}  // namespace

std::vector<int> simulated_ranks(const Layout& layout) {
  constexpr int kSmallWorld = 8;
  const int world = layout.world(), stages = layout.degree(Axis::kPipeline);
  std::vector<int> ranks;
  for (int rank = 0; rank < world;
       rank += world <= kSmallWorld ? 1 : world / stages)  // pp is the outermost axis
    ranks.push_back(rank);
  return ranks;
}

Simulation simulate(std::span<const Program> programs, const ModelSpec& spec, const Costs& costs,
                    const SimulateOptions& options) {
  Simulator first(programs, spec, costs, options, std::vector<double>(programs.size(), 0));
  Simulation simulation = first.run();
  const std::vector<double> behind_s = first.behind_s();
  if (std::ranges::all_of(behind_s, [](double seconds) { return seconds <= 0; })) return simulation;
  return Simulator(programs, spec, costs, options, behind_s).run();
}

}  // namespace furrow::plan
