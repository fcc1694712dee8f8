#include "apps/furrow/bench_comm.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/call.h"
#include "furrow/comm/transport.h"
#include "furrow/observe/json.h"

namespace furrow::app {
namespace {

using comm::Collective;
using comm::CollectiveKind;

constexpr const char* kLabel = "bench";

enum class Shape : uint8_t {
  kWhole,
  kInSlices,
  kOutSlices,
  kBothSlices
};  // where `count / n` elements stand

struct Operation {
  std::string_view name;
  CollectiveKind kind;
  Shape shape;
  double bus_factor;  // of (n-1)/n; 0: the factor is 1
};

constexpr Operation kOperations[] = {
    {"all_reduce", CollectiveKind::kAllReduce, Shape::kWhole, 2},
    {"reduce_scatter", CollectiveKind::kReduceScatter, Shape::kOutSlices, 1},
    {"all_gather", CollectiveKind::kAllGather, Shape::kInSlices, 1},
    {"broadcast", CollectiveKind::kBroadcast, Shape::kWhole, 0},
    {"reduce", CollectiveKind::kReduce, Shape::kWhole, 0},
    {"all_to_all", CollectiveKind::kAllToAll, Shape::kBothSlices, 1},
    {"send_recv", CollectiveKind::kSend, Shape::kWhole, 0},
};

const Operation& find_operation(std::string_view name) {
  for (const Operation& operation : kOperations) {
    if (operation.name == name) return operation;
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("operation", name, comm_bench_operations()));
}

// One call of one operation, on buffers that live as long as the bench.
class Call {
 public:
  Call(comm::Group group, const Operation& operation, int64_t elements, std::span<std::byte> in,
       std::span<std::byte> out)
      : group_(std::move(group)) {
    const int64_t slice = elements / group_.size();
    const bool sliced_in = operation.shape == Shape::kInSlices,
               sliced_out = operation.shape == Shape::kOutSlices;
    collective_.kind = operation.kind;
    collective_.label = kLabel;
    collective_.in = in.first(bytes_of(sliced_in ? slice : elements));
    collective_.out = out.first(bytes_of(sliced_out ? slice : elements));
    if (operation.kind == CollectiveKind::kBroadcast || operation.kind == CollectiveKind::kReduce)
      set_root(operation);
  }

  const Collective& collective() const { return collective_; }
  const comm::Group& group() const { return group_; }

  void run() {
    if (collective_.kind != CollectiveKind::kSend) return group_.run(collective_);
    Collective send = collective_, receive = collective_;  // around the ring
    send.out = {};
    send.root_or_peer = (group_.rank() + 1) % group_.size();
    receive.kind = CollectiveKind::kRecv;
    receive.in = {};
    receive.root_or_peer = (group_.rank() + group_.size() - 1) % group_.size();
    group_.start({send, receive}).wait();
  }

 private:
  static size_t bytes_of(int64_t elements) { return static_cast<size_t>(elements) * sizeof(float); }
  void set_root(const Operation& operation) {
    const bool root = group_.rank() == 0;
    collective_.root_or_peer = 0;
    if (operation.kind == CollectiveKind::kBroadcast && !root) collective_.in = {};
    if (operation.kind == CollectiveKind::kReduce && !root) collective_.out = {};
  }

  comm::Group group_;
  Collective collective_;
};

// Seconds of each of `times` calls here.
std::vector<double> time_calls(Call& call, int64_t times) {
  std::vector<double> us;
  us.reserve(static_cast<size_t>(times));
  for (int64_t i = 0; i < times; ++i) {
    const int64_t start = system_clock().monotonic_ns();
    call.run();
    us.push_back(static_cast<double>(system_clock().monotonic_ns() - start) * 1e-3);
  }
  return us;
}

// How often, so that a row takes about the asked time; the same on every rank.
int64_t calls_for(comm::Group& group, Call& call, double seconds) {
  time_calls(call, 3);  // maps peers' memory, fills caches
  std::vector<double> us = time_calls(call, 3);
  group.all_reduce(std::span<double>(us), comm::Reduction::kMax);
  const double each = std::max(0.5, *std::min_element(us.begin(), us.end()));
  return std::clamp<int64_t>(static_cast<int64_t>(seconds * 1e6 / each), 7, 5000);
}

double quantile(const std::vector<double>& sorted, double share) {  // nearest rank
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

class Bench {
 public:
  Bench(comm::Communicator& communicator, const CommBenchOptions& options)
      : communicator_(communicator),
        options_(options),
        group_(group_of(communicator, options.canonical)),
        transport_(transports_of(communicator, group_)),
        in_(communicator.allocate(buffer_bytes())),
        out_(communicator.allocate(buffer_bytes())) {}

  CommBenchRow measure(const Operation& operation, int64_t bytes);
  // The fastest algorithms of each size, for groups of this size and these wires, into `table`.
  void tune(const Operation& operation, comm::AlgorithmTable& table);
  comm::Wires wires() const;

 private:
  struct Candidate {
    int algorithm = 0;
    bool canonical = false;
    double p50_us = 0;
  };

  static comm::Group group_of(comm::Communicator& communicator, bool canonical);
  static std::string transports_of(comm::Communicator& communicator, comm::Group& group);
  size_t buffer_bytes() const { return static_cast<size_t>(std::max<int64_t>(options_.most_bytes, 4096)); }
  int64_t elements_of(int64_t bytes) const;
  Call call_of(comm::Group group, const Operation& operation, int64_t bytes);
  void add_bytes(CommBenchRow& row, int64_t calls);
  std::vector<Candidate> candidates_for(const Operation& operation, int64_t bytes);
  bool adds_in_order(const Operation& operation, int64_t bytes, int algorithm);

  comm::Communicator& communicator_;
  const CommBenchOptions& options_;
  comm::Group group_;
  std::string transport_;
  comm::Memory in_, out_;
};

comm::Group Bench::group_of(comm::Communicator& communicator, bool canonical) {
  std::vector<int> all(static_cast<size_t>(communicator.size()));
  std::iota(all.begin(), all.end(), 0);
  return communicator.group(all, {.name = canonical ? "canonical" : "any order", .canonical = canonical});
}

// What carries messages between any two ranks: one that is alone on its host sees another part of it.
std::string Bench::transports_of(comm::Communicator& communicator, comm::Group& group) {
  const std::string& backend = communicator.options().backend;
  if (backend != "native") return backend;
  const auto rows = comm::transport_rows();
  std::vector<int64_t> used(rows.size(), 0);
  for (int peer = 0; peer < communicator.size(); ++peer) {
    if (peer == communicator.rank()) continue;
    const std::string name = communicator.transport_of(peer);
    for (size_t i = 0; i < rows.size(); ++i) used[i] |= rows[i].name == name ? 1 : 0;
  }
  group.all_reduce(std::span<int64_t>(used), comm::Reduction::kMax);
  std::string names;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (used[i] != 0) names += fmt::format("{}{}", names.empty() ? "" : "+", rows[i].name);
  }
  return names;
}

// A multiple of the ranks: slices are equal.
int64_t Bench::elements_of(int64_t bytes) const {
  const int64_t ranks = group_.size(), asked = bytes / static_cast<int64_t>(sizeof(float));
  return std::max(asked / ranks, int64_t{1}) * ranks;
}

Call Bench::call_of(comm::Group group, const Operation& operation, int64_t bytes) {
  return Call(std::move(group), operation, elements_of(bytes), in_.bytes(), out_.bytes());
}

CommBenchRow Bench::measure(const Operation& operation, int64_t bytes) {
  Call call = call_of(group_, operation, bytes);
  const int64_t calls = calls_for(group_, call, options_.seconds_per_row);
  communicator_.ledger().clear();
  std::vector<double> us = time_calls(call, calls);
  CommBenchRow row;
  row.algorithm = communicator_.would_run(call.collective(), call.group());
  add_bytes(row, calls);
  group_.all_reduce(std::span<double>(us), comm::Reduction::kMax);  // a call lasts until the last rank has it
  std::sort(us.begin(), us.end());
  row.operation = operation.name;
  row.transport = transport_;
  row.ranks = group_.size();
  row.bytes = elements_of(bytes) * static_cast<int64_t>(sizeof(float));
  row.p50_us = quantile(us, 0.5);
  row.p99_us = quantile(us, 0.99);
  return row;
}

void Bench::add_bytes(CommBenchRow& row, int64_t calls) {
  std::array<int64_t, 2> bytes{};
  for (const comm::LedgerRow& entry : communicator_.ledger().rows()) {
    if (entry.label != kLabel) continue;
    bytes[0] += entry.wire_bytes / calls;
    bytes[1] += entry.bound_bytes / calls;
  }
  group_.all_reduce(std::span<int64_t>(bytes), comm::Reduction::kMax);
  row.wire_bytes = bytes[0];
  row.bound_bytes = bytes[1];
}

// As the table is asked: the same on every rank, whoever of them is alone on its host.
comm::Wires Bench::wires() const {
  return comm::topology_of(communicator_,
                           {.name = "bench", .members = group_.members(), .rank = group_.rank()})
      .wires;
}

// Would a canonical group run this algorithm too, where it is the only one of the table?
bool Bench::adds_in_order(const Operation& operation, int64_t bytes, int algorithm) {
  comm::Group canonical = group_of(communicator_, true);
  communicator_.ledger().clear();
  call_of(canonical, operation, bytes).run();
  bool used = false;
  for (const comm::LedgerRow& entry : communicator_.ledger().rows()) {
    used = used || (entry.label == kLabel && entry.algorithm == algorithm);
  }
  return used;
}

// Every algorithm that fits, measured.  The same on every rank.
std::vector<Bench::Candidate> Bench::candidates_for(const Operation& operation, int64_t bytes) {
  std::vector<Candidate> candidates;
  for (size_t index = 0; index < comm::algorithm_rows().size(); ++index) {
    const auto algorithm = static_cast<int>(index);
    comm::AlgorithmTable forced;
    forced.set(operation.kind, wires(), group_.size(),
               {{operation.kind, wires(), group_.size(), INT64_MAX, algorithm}});
    communicator_.set_algorithms(std::move(forced));
    const CommBenchRow row = measure(operation, bytes);
    if (row.algorithm != comm::algorithm_rows()[index].name) continue;
    candidates.push_back({algorithm, adds_in_order(operation, bytes, algorithm), row.p50_us});
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.p50_us < b.p50_us; });
  return candidates;
}

void Bench::tune(const Operation& operation, comm::AlgorithmTable& table) {
  std::vector<comm::AlgorithmTable::Entry> chosen;
  for (int64_t bytes = options_.least_bytes; bytes <= options_.most_bytes; bytes *= 4) {
    // Up to halfway to the next size; the largest counts for all above.
    const int64_t up_to = bytes * 4 > options_.most_bytes ? INT64_MAX : bytes * 2;
    for (const Candidate& candidate : candidates_for(operation, bytes)) {
      chosen.push_back({operation.kind, wires(), group_.size(), up_to, candidate.algorithm});
      if (candidate.canonical) break;  // what is slower than this is never needed
    }
  }
  table.set(operation.kind, wires(), group_.size(), std::move(chosen));
}

Cell bound_share(const CommBenchRow& row) {
  if (row.wire_bytes == 0) return {};
  return static_cast<double>(row.bound_bytes) / static_cast<double>(row.wire_bytes);
}

std::string text_of(const observe::JsonValue& row, std::string_view key) {
  const observe::JsonValue* value = row.find(key);
  if (value == nullptr || value->text() == nullptr)
    throw Error(ErrorCode::kDataLoss, "a bench printed no rows");
  return *value->text();
}

double number_of(const observe::JsonValue& row, std::string_view key) {
  const observe::JsonValue* value = row.find(key);
  if (value == nullptr || !value->number()) throw Error(ErrorCode::kDataLoss, "a bench printed no rows");
  return *value->number();
}

}  // namespace

double CommBenchRow::bus_gbps() const {
  const double factor = find_operation(operation).bus_factor;
  return algorithm_gbps() * (factor == 0 ? 1 : factor * (ranks - 1) / ranks);
}

std::vector<std::string> comm_bench_operations() {
  std::vector<std::string> names;
  for (const Operation& operation : kOperations) names.emplace_back(operation.name);
  return names;
}

std::vector<CommBenchRow> bench_comm(comm::Communicator& communicator, const CommBenchOptions& options) {
  const auto names = options.operations.empty() ? comm_bench_operations() : options.operations;
  Bench bench(communicator, options);
  std::vector<CommBenchRow> rows;
  for (const std::string& name : names) {
    const Operation& operation = find_operation(name);
    for (int64_t bytes = options.least_bytes; bytes <= options.most_bytes; bytes *= 4) {
      rows.push_back(bench.measure(operation, bytes));
    }
  }
  return rows;
}

comm::Wires tune_comm(comm::Communicator& communicator, const CommBenchOptions& options) {
  CommBenchOptions any_order = options;
  any_order.canonical = false;
  Bench bench(communicator, any_order);
  comm::AlgorithmTable table = communicator.algorithms();
  for (const std::string& name : options.operations.empty() ? comm_bench_operations() : options.operations) {
    const Operation& operation = find_operation(name);
    if (operation.kind != CollectiveKind::kSend) bench.tune(operation, table);
  }
  communicator.set_algorithms(std::move(table));
  return bench.wires();
}

Table comm_bench_table(const std::vector<CommBenchRow>& rows) {
  Table table({{"op"},
               {"algorithm"},
               {"transport"},
               {"ranks"},
               {"size (B)", "bytes"},
               {"count"},
               {"type"},
               {"redop"},
               {"time (us)", "p50_us", 1},
               {"p99 (us)", "p99_us", 1},
               {"algbw (GB/s)", "algbw_gbps", 3},
               {"busbw (GB/s)", "busbw_gbps", 3},
               {"wire (B)", "wire_bytes"},
               {"bound (B)", "bound_bytes"},
               {"of bound", "bound_share", 3}});
  for (const CommBenchRow& row : rows) {
    const bool reduces = row.operation.find("reduce") != std::string::npos;
    table.add_row({row.operation, row.algorithm, row.transport, static_cast<int64_t>(row.ranks), row.bytes,
                   row.bytes / static_cast<int64_t>(sizeof(float)), std::string("float"),
                   std::string(reduces ? "sum" : "none"), row.p50_us, row.p99_us, row.algorithm_gbps(),
                   row.bus_gbps(), row.wire_bytes, row.bound_bytes, bound_share(row)});
  }
  return table;
}

std::vector<CommBenchRow> parse_comm_bench(const std::string& json) {
  const observe::JsonValue parsed = observe::parse_json(json);
  const auto* entries = std::get_if<observe::JsonValue::Array>(&parsed.value);
  if (entries == nullptr) throw Error(ErrorCode::kDataLoss, "a bench printed no rows");
  std::vector<CommBenchRow> rows;
  for (const observe::JsonValue& entry : *entries) {
    CommBenchRow row;
    row.operation = text_of(entry, "op");
    row.algorithm = text_of(entry, "algorithm");
    row.transport = text_of(entry, "transport");
    row.ranks = static_cast<int>(number_of(entry, "ranks"));
    row.bytes = static_cast<int64_t>(number_of(entry, "bytes"));
    row.p50_us = number_of(entry, "p50_us");
    row.p99_us = number_of(entry, "p99_us");
    row.wire_bytes = static_cast<int64_t>(number_of(entry, "wire_bytes"));
    row.bound_bytes = static_cast<int64_t>(number_of(entry, "bound_bytes"));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace furrow::app
