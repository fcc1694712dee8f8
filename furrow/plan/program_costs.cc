// What the instructions of a program do, in numbers: the table of operations, and what communication moves.
#include <algorithm>
#include <array>

#include "furrow/base/error.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/exchange.h"
#include "furrow/plan/measured_name.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan {
namespace {

struct Row {
  Op op;
  Work work;
  Place place = Place::kThread;
};

constexpr auto kRows = std::to_array<Row>({
    {Op::kLoad, Work::kBatch},
    {Op::kForward, Work::kForward, Place::kDevice},
    {Op::kRecompute, Work::kForward, Place::kDevice},
    {Op::kLoss, Work::kLoss, Place::kAwaited},
    {Op::kEvaluate, Work::kLoss, Place::kAwaited},
    {Op::kBackwardInput, Work::kBackwardInput, Place::kDevice},
    {Op::kBackwardWeight, Work::kBackwardWeight, Place::kDevice},
    {Op::kAdd, Work::kFlat, Place::kDevice},
    {Op::kReduceGrads, Work::kCommunication},
    {Op::kAddTied, Work::kFlat, Place::kDevice},
    {Op::kGatherGrads, Work::kCommunication},
    {Op::kGatherParams, Work::kCommunication},
    {Op::kMeasure, Work::kFlat, Place::kAwaited},
    {Op::kReduceScalar, Work::kCommunication},
    {Op::kClip, Work::kNothing},
    {Op::kUpdateScale, Work::kNothing},
    {Op::kStep, Work::kFlat, Place::kDevice},
    {Op::kGatherUpdated, Work::kCommunication},
    {Op::kSnapshot, Work::kFlat, Place::kAwaited},
    {Op::kSwapAverage, Work::kFlat, Place::kDevice},
    {Op::kSend, Work::kCommunication},
    {Op::kRecv, Work::kCommunication},
    {Op::kGatherStats, Work::kCommunication},
    {Op::kFoldStats, Work::kNothing, Place::kAwaited},
    {Op::kCopyDown, Work::kCopy},
    {Op::kCopyUp, Work::kCopy},
    {Op::kRound, Work::kFlat, Place::kDevice},
    {Op::kWiden, Work::kFlat, Place::kDevice},
});

const Row& row_of(Op op) {
  const auto row = std::ranges::find(kRows, op, &Row::op);
  FURROW_CHECK(row != kRows.end(), "an operation without a row in plan/program_costs.cc");
  return *row;
}

bool is_flat(ValueKind kind) { return is_persistent(kind) || kind == ValueKind::kSnapshot; }

double seconds_at(const Costs& costs, double bytes_per_second, int64_t bytes) {
  const double rate =
      bytes_per_second > 0 ? bytes_per_second : costs.cluster().device.memory_bytes_per_second;
  return costs.overhead_seconds() + (rate > 0 ? static_cast<double>(bytes) / rate : 0);
}

bool writes(const Instruction& instruction, ValueKind kind) {
  return std::ranges::any_of(instruction.writes, [kind](const Value& value) { return value.kind == kind; });
}

}  // namespace

Movement movement_of(UnitCollective::Op op) {
  if (op == UnitCollective::Op::kAllGather) return Movement::kAllGather;
  return op == UnitCollective::Op::kReduceScatter ? Movement::kReduceScatter : Movement::kAllReduce;
}

std::string_view inside_name(UnitCollective::Op op) {
  if (op == UnitCollective::Op::kAllGather) return "tensor.all_gather";
  return op == UnitCollective::Op::kReduceScatter ? "tensor.reduce_scatter" : "tensor.all_reduce";
}

double host_copy_seconds(const Costs& costs, int64_t bytes) {
  return seconds_at(costs, costs.cluster().device.host_bytes_per_second, bytes);
}

double host_step_seconds(const Costs& costs, int64_t bytes) {
  const Cluster& cluster = costs.cluster();
  const bool cores = cluster.device.kind == DeviceKind::kCpu;
  return seconds_at(costs, cores ? 0 : cluster.host_memory_bytes_per_second / cluster.devices, bytes);
}

Work work_of(Op op) { return row_of(op).work; }
Place place_of(Op op) { return row_of(op).place; }

ProgramCosts::ProgramCosts(const Costs& costs, const ModelSpec& spec, const Program& program, int represents)
    : costs_(costs), spec_(spec), program_(program), flat_(flat_layout(spec)), represents_(represents) {}

double ProgramCosts::seconds(const Instruction& instruction) const {
  switch (work_of(instruction.op)) {
    case Work::kForward:
    case Work::kBackwardInput:
    case Work::kBackwardWeight:
      return costs_.unit_seconds(unit_work(instruction));
    case Work::kLoss:
      return costs_.loss_seconds(work_bytes(instruction));
    case Work::kBatch:
      return costs_.batch_seconds(work_bytes(instruction));
    case Work::kFlat:
      if (steps_on_host(instruction)) return host_step_seconds(costs_, work_bytes(instruction));
      return costs_.flat_seconds(instruction.op, work_bytes(instruction));
    case Work::kCopy:
      return host_copy_seconds(costs_, work_bytes(instruction));
    case Work::kNothing:
      return costs_.overhead_seconds();
    case Work::kCommunication:
      break;
  }
  FURROW_CHECK(false, "communication is not the work of the rank's own thread");
  return 0;
}

bool ProgramCosts::steps_on_host(const Instruction& instruction) const {
  return instruction.op == Op::kStep && flat_.units[instruction.unit].offload;
}

// None: of no device.
std::optional<double> ProgramCosts::launch_seconds(const Instruction& instruction) const {
  const Work work = work_of(instruction.op);
  if (place_of(instruction.op) == Place::kThread) return std::nullopt;
  if (steps_on_host(instruction)) return std::nullopt;
  if (work == Work::kNothing) return costs_.launch_seconds(op_info(instruction.op).name, 0);
  if (work == Work::kLoss || work == Work::kFlat)
    return costs_.launch_seconds(work == Work::kLoss ? "loss" : op_info(instruction.op).name,
                                 work_bytes(instruction));
  return costs_.launch_seconds(unit_work(instruction));
}

Lanes ProgramCosts::lanes(const Instruction& instruction) const {
  const std::optional<double> launch = launch_seconds(instruction);
  if (!launch) return {seconds(instruction), 0, false};
  const bool awaited = place_of(instruction.op) == Place::kAwaited;
  if (work_of(instruction.op) == Work::kNothing) return {*launch, 0, awaited};
  return {*launch, seconds(instruction), awaited};
}

UnitWork ProgramCosts::unit_work(const Instruction& instruction) const {
  const Work work = work_of(instruction.op);
  return {&spec_.units[instruction.unit], work, program_.microbatch_sizes[instruction.microbatch],
          work != Work::kBackwardInput || writes(instruction, ValueKind::kGrad)};
}

int64_t ProgramCosts::work_bytes(const Instruction& instruction) const {
  switch (work_of(instruction.op)) {
    case Work::kLoss:
      return program_.microbatch_sizes[instruction.microbatch] *
             spec_.units[instruction.reads.front().unit].output.bytes_per_sample();
    case Work::kBatch:
      return bytes_of(instruction.writes.front());
    case Work::kCopy:
      return copied_bytes({spec_, flat_, program_.microbatch_sizes, program_.placement, program_.states},
                          instruction);
    default:
      return flat_bytes(instruction);
  }
}

int64_t ProgramCosts::bytes_of(const Value& value) const {
  return value_bytes({spec_, flat_, program_.microbatch_sizes, program_.placement, program_.states}, value);
}

// Flat buffers read and written; a rank measures its own part alone.
int64_t ProgramCosts::flat_bytes(const Instruction& instruction) const {
  int64_t bytes = 0;
  for (Value value : instruction.reads) {
    if (!is_flat(value.kind)) continue;
    if (instruction.op == Op::kMeasure) value.part = program_.placement.own_part();
    bytes += bytes_of(value);
  }
  for (const Value& value : instruction.writes) {
    if (is_flat(value.kind)) bytes += bytes_of(value);
  }
  return bytes;
}

Moved ProgramCosts::moved(const Instruction& instruction) const {
  Moved moved;
  switch (instruction.op) {
    case Op::kReduceGrads:
      moved = exchange(instruction);
      break;
    case Op::kReduceScalar:
      moved = sums(instruction);
      break;
    case Op::kSend:
    case Op::kRecv:
      moved = transfer(instruction);
      break;
    case Op::kGatherStats:
      moved.members = group_ranks(program_.placement, instruction.axis);
      moved.call.movement = Movement::kAllGather;
      for (const Value& value : instruction.writes) moved.self_bytes += bytes_of(value);
      moved.call.bytes = moved.self_bytes;
      for (const Value& value : instruction.reads) moved.call.bytes += bytes_of(value);
      moved.mean_bytes = static_cast<double>(moved.self_bytes);
      moved.waits_to_land = true;
      break;
    default:
      moved = gather(instruction);
      break;
  }
  moved.call.self = program_.placement.rank;
  moved.call.sharers = sharers(moved.members);
  moved.call.operation = measured_name(instruction.op, instruction.axis, program_.placement);
  return moved;
}

std::vector<Moved> ProgramCosts::inside(const Instruction& instruction) const {
  std::vector<Moved> list;
  for (const UnitCollective& each : collectives_in(spec_, instruction)) {
    Moved moved;
    moved.members = group_ranks(program_.placement, GroupAxis::kTensor);
    moved.call.movement = movement_of(each.op);
    moved.call.operation = inside_name(each.op);
    moved.call.bytes = each.bytes(program_.microbatch_sizes[instruction.microbatch]);
    moved.call.self = program_.placement.rank;
    moved.call.sharers = sharers(moved.members);
    moved.self_bytes = received_bytes(each.op, moved.call.bytes, static_cast<int>(moved.members.size()));
    moved.mean_bytes = static_cast<double>(moved.self_bytes);
    list.push_back(std::move(moved));
  }
  return list;
}

// One value from one stage's rank to another's; the receiver counts it.
Moved ProgramCosts::transfer(const Instruction& instruction) const {
  Moved moved;
  const bool sends = instruction.op == Op::kSend;
  const int own = program_.placement.rank, peer = pipeline_peer(program_.placement, instruction.peer);
  moved.members = sends ? std::vector<int>{own, peer} : std::vector<int>{peer, own};
  moved.call.movement = Movement::kTransfer;
  moved.call.bytes = bytes_of(sends ? instruction.reads.front() : instruction.writes.front());
  if (sends) return moved;
  moved.self_bytes = moved.call.bytes;
  moved.mean_bytes = static_cast<double>(moved.call.bytes);
  return moved;
}

// Slices of one buffer, all to all members.
Moved ProgramCosts::gather(const Instruction& instruction) const {
  Moved moved;
  moved.members = group_ranks(program_.placement, instruction.axis);
  moved.call.movement = Movement::kAllGather;
  const std::vector<Slice> slices =
      member_slices(flat_, program_.placement, buffer_of(instruction), instruction.axis);
  const int64_t element = element_bytes(flat_, instruction.writes.front());
  int64_t all = 0;
  for (const Slice& slice : slices) all += slice.size() * element;
  moved.call.bytes = all;
  for (size_t i = 0; i < slices.size(); ++i) {
    if (moved.members[i] == program_.placement.rank) moved.self_bytes = all - slices[i].size() * element;
  }
  const auto n = static_cast<double>(slices.size());
  moved.mean_bytes = static_cast<double>(all) * (n - 1) / n;
  return moved;
}

Moved ProgramCosts::sums(const Instruction& instruction) const {
  Moved moved;
  moved.members = group_ranks(program_.placement, instruction.axis);
  const auto others = static_cast<int64_t>(moved.members.size()) - 1;
  moved.call.movement = Movement::kAllGather;
  moved.call.bytes = (others + 1) * kSumsBytes;
  moved.self_bytes = others * kSumsBytes;
  moved.mean_bytes = static_cast<double>(moved.self_bytes);
  moved.waits_to_land = true;
  return moved;
}

// Who brings how many nodes depends on the axis and the round, not on the unit.
const ProgramCosts::Nodes& ProgramCosts::nodes_of(const Instruction& instruction) const {
  const std::array<int32_t, 3> key = {static_cast<int32_t>(instruction.axis),
                                      instruction.writes.front().begin, instruction.writes.back().end};
  const auto [found, first] = nodes_.try_emplace(key);
  Nodes& nodes = found->second;
  if (!first) return nodes;
  const Exchange exchange = exchange_of(program_, instruction);
  for (const std::vector<Range>& each : exchange.nodes) {
    nodes.by_member.push_back(static_cast<int64_t>(each.size()));
    nodes.all += nodes.by_member.back();
    nodes.most = std::max(nodes.most, nodes.by_member.back());
  }
  nodes.self = exchange.self;
  nodes.plain = exchange.plain;
  return nodes;
}

// A reduce-scatter; where more than one node a rank travels, so many of them, added by the rank's own thread.
Moved ProgramCosts::exchange(const Instruction& instruction) const {
  Moved moved;
  if (instruction.writes.empty()) return moved;  // nothing comes of this round yet
  const Nodes& nodes = nodes_of(instruction);
  const std::vector<Slice> slices =
      member_slices(flat_, program_.placement, buffer_of(instruction), instruction.axis);
  moved.members = group_ranks(program_.placement, instruction.axis);
  moved.call.movement = Movement::kReduceScatter;
  int64_t all = 0;
  double received = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const int64_t slice = slices[i].size() * flat_.gradient_bytes(), others = nodes.all - nodes.by_member[i];
    all += slice;
    received += static_cast<double>(slice * others);
    if (i == nodes.self) moved.self_bytes = slice * others;
  }
  moved.mean_bytes = received / static_cast<double>(slices.size());
  moved.call.bytes = all * nodes.most;
  moved.call.messages = std::max<int64_t>(1, nodes.most);
  moved.waits_to_land = !nodes.plain;
  if (!nodes.plain) moved.landing_bytes = 3 * moved.self_bytes;  // each is added to something
  return moved;
}

// Groups beside this one on the host of the rank: those of the ranks that the program stands for.
int ProgramCosts::sharers(const std::vector<int>& members) const {
  if (represents_ == 1 || members.empty()) return 1;
  const Cluster& cluster = costs_.cluster();
  const int rank = program_.placement.rank, host = cluster.host_of(rank);
  const int stage = rank / represents_;  // pp is the outermost axis
  const int first = std::max(stage * represents_, host * cluster.devices);
  const int last = std::min((stage + 1) * represents_, (host + 1) * cluster.devices);
  const auto here = [&](int member) { return cluster.host_of(member) == host; };
  const auto own = static_cast<int>(std::ranges::count_if(members, here));
  return std::max(1, (last - first) / std::max(1, own));
}

}  // namespace furrow::plan
