#include "furrow/train/predict.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/comm/meeting.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/verify.h"

namespace furrow::train {
namespace {

constexpr uint64_t kMostProfileBytes = uint64_t{64} << 20;

// What a throttled run sees; between hosts nobody has said what there is.
plan::LinkSpec network_of(const comm::LinkSpec& throttle) {
  plan::LinkSpec link = plan::find_link("ethernet-10");
  if (throttle.bytes_per_second > 0) link.bytes_per_second = throttle.bytes_per_second;
  if (throttle.emulated())
    link.latency_s = std::max(link.latency_s, static_cast<double>(throttle.delay_ns) * 1e-9);
  return link;
}

// Most batches that the program holds at once, and the bytes of the largest.
std::pair<int64_t, int64_t> batches_of(const plan::Program& program) {
  int64_t held = 0, most = 0, largest = 0;
  for (const plan::Instruction& instruction : program.instructions) {
    for (const plan::Value& value : instruction.writes) {
      if (value.kind != plan::ValueKind::kBatch) continue;
      most = std::max(most, ++held);
      largest = std::max(largest, program.slots[static_cast<size_t>(program.slot_of(value))].bytes);
    }
    for (const plan::Value& value : instruction.drops) held -= value.kind == plan::ValueKind::kBatch ? 1 : 0;
  }
  return {most, largest};
}

}  // namespace

std::string profile_file() { return user_file("FURROW_PROFILE", "profile"); }

Machine machine_of(const RankContext& rank, const config::Config& config) {
  Machine machine;
  machine.cores = core_count();
  if (rank.alone()) return machine;
  const auto& ranks = rank.communicator->roster().ranks;
  std::set<std::string> hosts;
  std::vector<int64_t> processes;
  for (const comm::RankInfo& each : ranks) {
    hosts.insert(each.host);
    if (each.host == ranks[0].host) processes.push_back(each.pid);
  }
  machine.hosts = static_cast<int>(hosts.size());
  machine.ranks = (static_cast<int>(ranks.size()) + machine.hosts - 1) / machine.hosts;
  machine.cores = std::max(1, core_count_of(processes));
  machine.inline_bytes = rank.communicator->options().inline_bytes;
  machine.throttle = comm::parse_link(config.comm.throttle);
  return machine;
}

Machine local_machine(int ranks, const config::Comm& comm, const std::string& device) {
  Machine machine;
  machine.device.type = device;
  machine.cores = core_count();
  machine.ranks = ranks;
  machine.throttle = comm::parse_link(comm.throttle);
  // A rank on its only core moves memory itself (comm/join.cc).
  if (ranks > 1 && machine.cores / ranks <= 1 && !comm::all_over_tcp(comm))
    machine.inline_bytes = std::numeric_limits<int64_t>::max();
  return machine;
}

namespace {

plan::Cluster cluster_of(const Machine& machine) {
  const plan::LocalMachine local{machine.cores, static_cast<int64_t>(total_memory_bytes()),
                                 instruction_set() == "avx512"};
  plan::Cluster cluster = plan::local_cluster(local, machine.ranks);
  cluster.hosts = machine.hosts;
  cluster.inline_inside = machine.inline_bytes == std::numeric_limits<int64_t>::max();
  cluster.inline_bytes = machine.inline_bytes;
  cluster.network = network_of(machine.throttle);
  if (machine.throttle.emulated()) cluster.inside = cluster.network;
  return cluster;
}

// A device with memory of its own in the place of the cores; what it takes over wires is by PCIe until it is
// measured.
void put_device(const plan::ProfileSection& section, plan::Cluster* cluster) {
  cluster->device = plan::measured_device(section);
  cluster->inside = plan::find_link("pcie4");
  cluster->inline_inside = false;
  cluster->inline_bytes = 0;
  int64_t most = 0;
  for (const plan::FlatSample& flat : section.flats) {
    if (flat.op != plan::kHostStep || flat.bytes < most || flat.seconds <= 0) continue;
    most = flat.bytes;
    cluster->host_memory_bytes_per_second = static_cast<double>(flat.bytes) / flat.seconds * cluster->devices;
  }
}

plan::Profile read_profile(const std::string& path) {
  try {
    return plan::parse_profile(read_file(path, kMostProfileBytes));
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

bool is_cpu(const Machine& machine) { return machine.device.type == "cpu"; }

std::unique_ptr<plan::Costs> unprofiled(const Machine& machine, plan::Cluster cluster,
                                        const std::string& profile_path) {
  if (is_cpu(machine)) return plan::analytic_costs(std::move(cluster));
  const std::string& name = machine.device.name;
  throw Error(
      ErrorCode::kFailedPrecondition,
      fmt::format("nothing was measured of [training] device = \"{}\"{} ({}): run `furrow profile "
                  "CONFIG --training.device {}` there, and read its file as FURROW_PROFILE",
                  machine.device.type, name.empty() ? "" : ", " + name, profile_path, machine.device.type));
}

}  // namespace

std::unique_ptr<plan::Costs> machine_costs(const Machine& machine, const std::string& profile_path) {
  plan::Cluster cluster = cluster_of(machine);
  if (!path_exists(profile_path)) return unprofiled(machine, std::move(cluster), profile_path);
  const plan::Profile profile = read_profile(profile_path);
  const plan::ProfileSection* section = profile.section(machine.ranks, machine.device);
  if (section == nullptr) return unprofiled(machine, std::move(cluster), profile_path);
  if (section->device.memory_bytes > 0) put_device(*section, &cluster);
  plan::ProfileSection used = *section;
  if (machine.throttle.emulated()) used.movements.clear();
  return plan::profiled_costs(std::move(cluster), used);
}

plan::ProfiledDevice profiled_device(const std::string& type, const std::string& profile_path) {
  const plan::ProfiledDevice any{type};
  if (!path_exists(profile_path)) return any;
  const plan::Profile profile = read_profile(profile_path);
  const plan::ProfileSection* const section = profile.section(1, any);
  return section == nullptr ? any : section->device;
}

int64_t bytes_on(const plan::ProfiledDevice& device, const std::array<int64_t, kMemoryKinds>& by_kind,
                 bool offload) {
  const bool own = device.memory_bytes > 0;
  int64_t bytes = 0;
  for (size_t k = 0; k < kMemoryKinds; ++k) {
    const auto kind = static_cast<MemoryKind>(k);
    const bool host = kind == MemoryKind::kData || kind == MemoryKind::kCheckpoint ||
                      (offload && kind == MemoryKind::kOptimizer);
    if (!own || !host) bytes += by_kind[k];
  }
  return bytes;
}

void check_fits(int64_t planned_bytes, const plan::ProfiledDevice& device) {
  const bool own = device.memory_bytes > 0;
  const int64_t there = own ? device.memory_bytes : static_cast<int64_t>(total_memory_bytes());
  if (planned_bytes <= there) return;
  const auto text = [](int64_t bytes) { return format_bytes(static_cast<uint64_t>(bytes)); };
  throw Error(ErrorCode::kResourceExhausted,
              fmt::format("the run needs {} of memory on {}, which has {}: lower training.local_batch_size, "
                          "recompute ([activation_checkpoint] mode = \"full\"), {}or shard over more ranks",
                          text(planned_bytes), own ? device.name : "this host", text(there),
                          own ? "leave the optimizer on the host ([training] enable_cpu_offload), " : ""));
}

std::vector<plan::Program> programs_of_world(const plan::ModelSpec& spec, const plan::Layout& layout,
                                             plan::TrainOptions options) {
  std::vector<plan::Program> programs;
  for (const int rank : plan::simulated_ranks(layout)) {
    options.ranks.rank = rank;
    programs.push_back(plan::compile_train(spec, layout, options));
  }
  return programs;
}

bool multiplies(const plan::Program& program, const plan::ModelSpec& spec) {
  return std::ranges::any_of(program.instructions, [&](const plan::Instruction& i) {
    return i.op == plan::Op::kForward && spec.units[i.unit].flops.forward > 0;
  });
}

PlannedMemory planned_memory(const plan::Program& program, const plan::ModelSpec& spec,
                             const Resident& resident) {
  plan::Quote quote = plan::quote(program, spec);
  PlannedMemory planned{quote.peak_bytes, std::move(quote.memory), std::move(quote.formula)};
  const auto bytes_of = [&](MemoryKind kind) -> int64_t& { return planned.bytes[static_cast<size_t>(kind)]; };
  const auto add = [&](MemoryKind kind, std::string_view name, int64_t bytes) {
    if (bytes > 0) planned.items.push_back({kind, fmt::format("{}, {}", to_string(kind), name), bytes});
  };
  const auto [held, largest] = batches_of(program);
  const int64_t batches = (held + resident.prefetch + resident.validation_batches) * largest;
  add(MemoryKind::kData, "set", resident.data_bytes);
  add(MemoryKind::kData, "batches", batches);
  add(MemoryKind::kCheckpoint, "best model", resident.best_bytes);
  add(MemoryKind::kCheckpoint, "snapshots", resident.snapshot_bytes);
  add(MemoryKind::kOther, "workspace", resident.workspace_bytes);
  add(MemoryKind::kOther, kDeviceSums, resident.sums_bytes);
  int64_t& other = bytes_of(MemoryKind::kOther);
  if (resident.passing_bytes > other)
    add(MemoryKind::kOther, "a parameter or gradient on its way", resident.passing_bytes);
  other = std::max(other, resident.passing_bytes) + resident.workspace_bytes + resident.sums_bytes;
  bytes_of(MemoryKind::kData) = std::max(resident.data_peak_bytes, resident.data_bytes + batches);
  bytes_of(MemoryKind::kCheckpoint) += resident.best_bytes + resident.snapshot_bytes;
  return planned;
}

namespace {

std::string items_of(const PlannedMemory& planned, MemoryKind kind, int64_t bytes) {
  std::vector<std::string> items;
  const std::string before = fmt::format("{}, ", to_string(kind));
  const auto add = [&](std::string_view name, int64_t item_bytes) {
    items.push_back(fmt::format("{} {}", name, format_bytes(static_cast<uint64_t>(item_bytes))));
    bytes -= item_bytes;
  };
  for (const plan::MemoryItem& item : planned.items) {
    if (item.kind == kind)
      add(item.name.starts_with(before) ? item.name.substr(before.size()) : item.name, item.bytes);
  }
  if (bytes > 0) add(kind == MemoryKind::kData ? "more while it is opened" : "values of a step", bytes);
  return items.size() > 1 ? furrow::join(items, ", ") : "";
}

}  // namespace

std::vector<MemoryLine> memory_lines(const PlannedMemory& planned) {
  const auto formula_of = [&](MemoryKind kind) -> std::optional<double> {
    const plan::MemoryFormula& formula = planned.formula;
    if (kind == MemoryKind::kParameters) return formula.parameters + formula.teacher;
    if (kind == MemoryKind::kGradients) return formula.gradients;
    if (kind == MemoryKind::kOptimizer) return formula.optimizer;
    return std::nullopt;
  };
  std::vector<MemoryLine> lines;
  for (size_t k = 0; k < kMemoryKinds; ++k) {
    const auto kind = static_cast<MemoryKind>(k);
    const int64_t bytes = planned.bytes[k];
    if (bytes > 0) lines.push_back({kind, bytes, formula_of(kind), items_of(planned, kind, bytes)});
  }
  return lines;
}

observe::StepFigures figures_of(const plan::Simulation& simulation) {
  observe::StepFigures figures;
  figures.step_time_ms = simulation.step_s * 1e3;
  figures.wire_bytes = simulation.wire_bytes;
  figures.bubble = simulation.bubble;
  figures.exposed_communication = simulation.exposed_communication;
  return figures;
}

std::string lane_of(const plan::Instruction& instruction) {
  if (instruction.peer >= 0)
    return fmt::format("{} {}", instruction.op == plan::Op::kSend ? "to" : "from", instruction.peer);
  if (instruction.stream == plan::Stream::kComm) return "comm";
  return instruction.stream == plan::Stream::kCopy ? "copy" : "compute";
}

std::vector<observe::TraceEvent> trace_of(const plan::Simulation& simulation,
                                          const std::vector<plan::Program>& programs, int32_t program,
                                          int64_t begin_ns) {
  std::vector<observe::TraceEvent> events;
  const plan::Program& of = programs[static_cast<size_t>(program)];
  for (const plan::SimulatedSpan& span : simulation.spans) {
    if (span.program != program) continue;
    const plan::Instruction& i = of.instructions[static_cast<size_t>(span.instruction)];
    observe::TraceEvent event;
    event.category = std::string(plan::op_info(i.op).name);
    event.name = i.unit < 0 ? event.category : event.category + " " + of.units[static_cast<size_t>(i.unit)];
    event.stream = "predicted " + (span.launch ? "launch" : lane_of(i));
    event.start_ns = begin_ns + std::llround(span.start_s * 1e9);
    event.duration_ns = std::llround((span.end_s - span.start_s) * 1e9);
    event.args = {{"instruction", fmt::format("{}", span.instruction)},
                  {"microbatch", fmt::format("{}", i.microbatch)}};
    events.push_back(std::move(event));
  }
  return events;
}

std::vector<observe::MemoryMoment> memory_of(const plan::Simulation& simulation, int32_t program,
                                             int64_t begin_ns) {
  std::vector<observe::MemoryMoment> moments;
  for (const plan::MemoryPoint& point : simulation.memory[static_cast<size_t>(program)])
    moments.push_back({begin_ns + std::llround(point.time_s * 1e9), point.bytes});
  std::ranges::stable_sort(moments, {}, &observe::MemoryMoment::time_ns);
  return moments;
}

}  // namespace furrow::train
