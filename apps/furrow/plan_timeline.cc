#include "apps/furrow/plan_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "apps/furrow/plan_model.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/text.h"
#include "furrow/observe/abridge.h"
#include "furrow/observe/timeline_chart.h"
#include "furrow/observe/trace.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/simulate.h"
#include "furrow/train/layout_choice.h"
#include "furrow/train/predict.h"
#include "furrow/train/recipe.h"

namespace furrow::app {
namespace {

int32_t index_of(const std::vector<plan::Program>& programs, int rank) {
  std::vector<std::string> known;
  for (size_t i = 0; i < programs.size(); ++i) {
    if (programs[i].placement.rank == rank) return static_cast<int32_t>(i);
    known.push_back(std::to_string(programs[i].placement.rank));
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("rank {} is not simulated by itself: of so many ranks those of one data coordinate "
                          "stand for all, {}",
                          rank, join(known, ", ")));
}

Table table_of(const plan::Simulation& simulation, const std::vector<plan::Program>& programs, int32_t of) {
  Table table({{"start ms", "start_ms", 3},
               {"end ms", "end_ms", 3},
               {"lane"},
               {"op"},
               {"unit"},
               {"microbatch"},
               {"live bytes", "live_bytes", kAsBytes}});
  const plan::Program& program = programs[static_cast<size_t>(of)];
  std::vector<int64_t> live(program.instructions.size(), 0);
  for (const plan::MemoryPoint& point : simulation.memory[static_cast<size_t>(of)])
    live[static_cast<size_t>(point.instruction)] =
        std::accumulate(point.bytes.begin(), point.bytes.end(), int64_t{0});
  for (const plan::SimulatedSpan& span : simulation.spans) {
    if (span.program != of) continue;
    const auto index = static_cast<size_t>(span.instruction);
    const plan::Instruction& i = program.instructions[index];
    std::vector<Cell> row(7);
    row[0] = span.start_s * 1e3;
    row[1] = span.end_s * 1e3;
    row[2] = span.launch ? "launch" : train::lane_of(i);
    row[3] = std::string(plan::op_info(i.op).name);
    if (i.unit >= 0) row[4] = program.units[static_cast<size_t>(i.unit)];
    if (i.microbatch >= 0) row[5] = static_cast<int64_t>(i.microbatch);
    row[6] = live[index];
    table.add_row(std::move(row));
  }
  return table;
}

// Bytes by kind once each instruction has run; kinds that the program has.
Table memory_table(const plan::Simulation& simulation, const std::vector<plan::Program>& programs,
                   int32_t of) {
  const plan::Program& program = programs[static_cast<size_t>(of)];
  const plan::SimulatedRank& rank = simulation.ranks[static_cast<size_t>(of)];
  std::vector<Column> columns = {{"ms", "", 3}, {"op"}, {"unit"}, {"microbatch"}};
  std::vector<size_t> kinds;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    if (rank.peak_bytes[kind] == 0) continue;
    kinds.push_back(kind);
    const std::string name(to_string(static_cast<MemoryKind>(kind)));
    columns.push_back({name, name + "_bytes", kAsBytes});
  }
  columns.push_back({"total", "total_bytes", kAsBytes});
  Table table(std::move(columns));
  for (const plan::MemoryPoint& point : simulation.memory[static_cast<size_t>(of)]) {
    const plan::Instruction& i = program.instructions[static_cast<size_t>(point.instruction)];
    std::vector<Cell> row(4);
    row[0] = point.time_s * 1e3;
    row[1] = std::string(plan::op_info(i.op).name);
    if (i.unit >= 0) row[2] = program.units[static_cast<size_t>(i.unit)];
    if (i.microbatch >= 0) row[3] = static_cast<int64_t>(i.microbatch);
    for (const size_t kind : kinds) row.emplace_back(point.bytes[kind]);
    row.emplace_back(std::accumulate(point.bytes.begin(), point.bytes.end(), int64_t{0}));
    table.add_row(std::move(row));
  }
  return table;
}

void draw(const plan::Simulation& simulation, const std::vector<plan::Program>& programs, int32_t of,
          const std::string& title, const std::string& path) {
  const std::vector<observe::TraceEvent> events = train::trace_of(simulation, programs, of, 0);
  write_file_atomic(path, observe::to_svg({title, events, train::memory_of(simulation, of, 0)}));
}

// All of them, or those that begin first and last.
void write_timelines(const plan::Simulation& simulation, const std::vector<plan::Program>& programs,
                     const std::string& path) {
  constexpr size_t kMostEvents = 100'000;  // some 20 MB
  std::vector<observe::TraceEvent> events;
  for (size_t p = 0; p < programs.size(); ++p) {
    for (observe::TraceEvent& event : train::trace_of(simulation, programs, static_cast<int32_t>(p), 0)) {
      event.stream = fmt::format("rank {} {}", programs[p].placement.rank, event.stream);
      events.push_back(std::move(event));
    }
  }
  const size_t all = events.size();
  events = observe::abridged(std::move(events), kMostEvents);
  if (events.size() < all)
    log_info(fmt::format("{}: of {} instructions the {} that begin first and the {} that begin last", path,
                         all, kMostEvents / 2, kMostEvents / 2));
  observe::write_trace(path, events, "furrow, predicted");
}

void log_step(const plan::Simulation& simulation, const std::vector<plan::Program>& programs,
              const plan::Costs& costs, const TimelineRequest& request) {
  log_info(fmt::format("a step of {} on {}, {}", format_seconds(simulation.step_s), request.machine,
                       costs.source()));
  if (simulation.exposed_copies > 0) {
    log_info(fmt::format("{} of it waits for copies between devices and their hosts",
                         format_seconds(simulation.exposed_copies * simulation.step_s)));
  }
  if (programs.size() == static_cast<size_t>(request.ranks)) return;
  std::vector<std::string> ranks;
  for (const plan::Program& program : programs) ranks.push_back(std::to_string(program.placement.rank));
  log_info(
      fmt::format("of {} ranks those of one data coordinate are simulated, one for each stage of the "
                  "pipeline: {}",
                  request.ranks, join(ranks, ", ")));
}

}  // namespace

Table simulated_timeline(const config::Config& config, const plan::ModelSpec& model, const plan::Costs& costs,
                         const TimelineRequest& request) {
  const plan::Layout layout = plan::layout_from(config.parallelism, request.ranks);
  const plan::ModelSpec spec = plan::compilable_spec(layout, model);
  plan::TrainOptions options = train::train_options(config, spec, layout, request.rank);
  options.ranks.bucket_bytes = train::chosen_buckets(config, model, layout, &costs).bytes;
  const std::vector<plan::Program> programs = train::programs_of_world(spec, layout, options);
  const int32_t of = index_of(programs, request.rank);
  const plan::Simulation simulation =
      plan::simulate(programs, spec, costs, {.timeline = true, .memory = true});
  log_step(simulation, programs, costs, request);
  if (!request.trace_path.empty()) write_timelines(simulation, programs, request.trace_path);
  if (!request.drawing.empty()) {
    const std::string title = fmt::format("A step of rank {} of {} on {}, {}", request.rank, request.ranks,
                                          request.machine, costs.source());
    draw(simulation, programs, of, title, request.drawing);
  }
  return request.memory ? memory_table(simulation, programs, of) : table_of(simulation, programs, of);
}

}  // namespace furrow::app
