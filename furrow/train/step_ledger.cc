#include "furrow/train/step_ledger.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>

namespace furrow::train {

namespace {

constexpr int kProbes = 9;
constexpr size_t kBubbleSteps = 1024;
constexpr size_t kMostWaits = 1 << 16;

// They have a row of their own, so that what bandwidth decides is judged alone.
constexpr size_t kSmallSums = comm::kCollectiveKinds;

// By the mean of its calls: those of one label are of one size, or all small (train/rank_axis.cc).
size_t row_of(const comm::LedgerRow& row) {
  const bool small =
      row.kind == comm::CollectiveKind::kAllReduce && row.payload_bytes <= kSmallSum * row.calls;
  return small ? kSmallSums : static_cast<size_t>(row.kind);
}

std::string name_of_row(size_t row) {
  if (row == kSmallSums) return "small_all_reduce";
  return std::string(to_string(static_cast<comm::CollectiveKind>(row)));
}

// Of the slowest rank, the median of some operations that move next to nothing.
double operation_latency_us(const RankContext& rank) {
  comm::Group world = rank.world();
  std::array<int64_t, kProbes> took_ns{};
  int64_t value = 1;
  for (int64_t& ns : took_ns) {
    const int64_t start_ns = rank.clock->monotonic_ns();
    world.all_reduce(std::span(&value, 1), comm::Reduction::kMax, "latency");
    ns = rank.clock->monotonic_ns() - start_ns;
  }
  world.all_reduce(std::span<int64_t>(took_ns), comm::Reduction::kMax, "latency");
  std::nth_element(took_ns.begin(), took_ns.begin() + kProbes / 2, took_ns.end());
  return static_cast<double>(took_ns[kProbes / 2]) * 1e-3;
}

// A send's bytes are the receiver's: callers leave those rows out.
void add(const comm::LedgerRow& row, StepLedger::Bytes* bytes) {
  bytes->calls += row.calls;
  bytes->wire += row.wire_bytes;
  bytes->bound += row.bound_bytes;
}

// Of a rank, as it goes to all others.
struct Figures {
  std::array<StepLedger::Bytes, comm::kCollectiveKinds + 1> bytes;
  int64_t exposed_ns = 0, busy_ns = 0;  // as CommTimes
  int64_t duration_ns = 0, samples = 0;
};
static_assert(std::has_unique_object_representations_v<Figures>, "words alone, all of int64_t");

template <class T>
auto words_of(std::span<T> figures) {
  using Word = std::conditional_t<std::is_const_v<T>, const int64_t, int64_t>;
  return std::span<Word>(reinterpret_cast<Word*>(figures.data()), figures.size_bytes() / sizeof(Word));
}

int64_t calls_of(const Figures& figures) {
  int64_t calls = 0;
  for (const StepLedger::Bytes& bytes : figures.bytes) calls += bytes.calls;
  return calls;
}

// Ranks differ in what they take part in: the first stage of a pipeline may receive and reduce nothing.
void add_bytes(std::span<const Figures> ranks, observe::RankAudit* audit) {
  int64_t most_calls = 0;
  for (const Figures& figures : ranks) most_calls = std::max(most_calls, calls_of(figures));
  audit->operations_per_step =
      static_cast<double>(most_calls) / static_cast<double>(std::max<int64_t>(1, audit->steps));
  for (size_t k = 0; k < ranks[0].bytes.size(); ++k) {
    observe::CollectiveAudit row{name_of_row(k), 0, 0, 0};
    for (const Figures& figures : ranks) {
      row.calls = std::max(row.calls, figures.bytes[k].calls);
      row.wire_bytes += figures.bytes[k].wire;
      row.bound_bytes += figures.bytes[k].bound;
    }
    if (row.calls > 0) audit->bytes.push_back(std::move(row));
  }
}

// Steps of all ranks last as long as the slowest one's: what tells ranks apart is the time in which they do
// not wait.
void add_times(std::span<const Figures> ranks, observe::RankAudit* audit) {
  const auto n = static_cast<double>(ranks.size());
  const auto steps = static_cast<double>(std::max<int64_t>(1, audit->steps));
  for (const Figures& figures : ranks) {
    const auto exposed = static_cast<double>(figures.exposed_ns);
    const auto duration = std::max(1.0, static_cast<double>(figures.duration_ns));
    const double at_work = std::max(1.0, duration - exposed);
    audit->step_seconds += duration * 1e-9 / steps / n;
    audit->exposed_communication += exposed / duration / n;
    audit->comm_to_compute += static_cast<double>(figures.busy_ns) / at_work / n;
    audit->rank_samples_per_second.push_back(static_cast<double>(figures.samples) / (at_work * 1e-9));
  }
}

}  // namespace

void StepLedger::begin_steps(const RankContext& rank) {
  if (!rank.alone()) rank.communicator->ledger().clear();
}

void StepLedger::end_steps(const RankContext& rank) {
  if (rank.alone()) return;
  for (const comm::LedgerRow& row : rank.communicator->ledger().rows()) {
    if (row.kind != comm::CollectiveKind::kSend) add(row, &bytes_[row_of(row)]);
  }
}

StepLedger::Bytes StepLedger::bytes(const RankContext& rank) const {
  Bytes sum;
  for (const Bytes& kind : bytes_) {
    sum.calls += kind.calls;
    sum.wire += kind.wire;
    sum.bound += kind.bound;
  }
  if (rank.alone()) return sum;
  for (const comm::LedgerRow& row : rank.communicator->ledger().rows()) {
    if (row.kind != comm::CollectiveKind::kSend) add(row, &sum);
  }
  return sum;
}

void StepLedger::add_step(const CommTimes& times, const ComputeTimes& compute, int64_t duration_ns,
                          int64_t samples) {
  if (compute_.size() < kBubbleSteps) compute_.push_back(compute);
  if (waits_.size() + times.waits.size() <= kMostWaits) {
    waits_.insert(waits_.end(), times.waits.begin(), times.waits.end());
    waiting_steps_ns_ += duration_ns;
  }
  ++steps_;
  times_.exposed_ns += times.exposed_ns;
  times_.busy_ns += times.busy_ns;
  duration_ns_ += duration_ns;
  samples_ += samples;
}

// 1 - computing time / (ranks x makespan), makespan from the first forward to the last weight gradient of all
// ranks; mean over steps.  Ranks of several hosts have no common clock: there it is the longest of any rank.
double StepLedger::bubble(const RankContext& rank) const {
  comm::Group world = rank.world();
  const auto ranks = static_cast<size_t>(world.size());
  std::vector<int64_t> own;
  for (const ComputeTimes& times : compute_)
    own.insert(own.end(), {times.begin_ns, times.end_ns, times.computing_ns});
  std::vector<int64_t> all(ranks * own.size());
  world.all_gather<int64_t>(own, all, {}, "bubble");
  const auto& infos = rank.communicator->roster().ranks;
  const bool one_clock =
      std::ranges::all_of(infos, [&](const comm::RankInfo& info) { return info.host == infos.front().host; });
  double sum = 0;
  for (size_t step = 0; step < compute_.size(); ++step) {
    int64_t begin = INT64_MAX, end = 0, longest = 1, computing = 0;
    for (size_t r = 0; r < ranks; ++r) {
      const int64_t* times = all.data() + r * own.size() + 3 * step;
      if (times[0] == 0) continue;
      begin = std::min(begin, times[0]);
      end = std::max(end, times[1]);
      longest = std::max(longest, times[1] - times[0]);
      computing += times[2];
    }
    const int64_t makespan = one_clock && end > begin ? end - begin : longest;
    sum += 1 - static_cast<double>(computing) / (static_cast<double>(ranks) * static_cast<double>(makespan));
  }
  return compute_.empty() ? 0 : sum / static_cast<double>(compute_.size());
}

// Whoever comes last to an operation waits for nobody: what the least of the ranks waited, it took; what the
// others waited on top, they waited for that one.  Only where all ranks start the same operations: those of
// a pipeline send where others receive.
std::optional<double> StepLedger::straggler_wait(const RankContext& rank) const {
  if (!rank.lanes.empty()) return std::nullopt;
  comm::Group world = rank.world();
  const auto count = static_cast<int64_t>(waits_.size());
  std::array<int64_t, 2> most{count, -count};
  world.all_reduce(std::span<int64_t>(most), comm::Reduction::kMax, "waits");
  if (most[0] != -most[1] || most[0] == 0) return std::nullopt;
  std::vector<int64_t> least = waits_;
  world.all_reduce(std::span<int64_t>(least), comm::Reduction::kMin, "waits");
  std::array<int64_t, 2> sums{std::accumulate(waits_.begin(), waits_.end(), int64_t{0}) -
                                  std::accumulate(least.begin(), least.end(), int64_t{0}),
                              waiting_steps_ns_};
  world.all_reduce(std::span<int64_t>(sums), comm::Reduction::kSum, "waits");
  return static_cast<double>(sums[0]) / static_cast<double>(std::max<int64_t>(1, sums[1]));
}

observe::RankAudit StepLedger::audit(const RankContext& rank) const {
  std::vector<Figures> all(static_cast<size_t>(rank.world().size()));
  const Figures own{bytes_, times_.exposed_ns, times_.busy_ns, duration_ns_, samples_};
  rank.world().all_gather<int64_t>(words_of(std::span(&own, 1)), words_of(std::span(all)), {}, "audit");

  observe::RankAudit audit;
  audit.ranks = rank.world().size();
  audit.backend = rank.communicator->options().backend;
  audit.steps = steps_;
  audit.operation_latency_us = operation_latency_us(rank);
  audit.bubble = bubble(rank);
  audit.straggler_wait = straggler_wait(rank);
  add_bytes(all, &audit);
  add_times(all, &audit);
  return audit;
}

}  // namespace furrow::train
