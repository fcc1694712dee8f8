// Every transport x number of ranks x operation x size x data type x reduction x algorithm, in place and out
// of place, against the reference, bit for bit.  A sample of the product, the same each time, with every
// operation of every algorithm in it; FURROW_TEST_FULL=1 runs all of it.  Which algorithm really carries out
// a case is read in the ledger and compared too: none falls back unseen.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "furrow/comm/algorithm.h"
#include "furrow/comm/conformance_reference.h"
#include "furrow/comm/inproc.h"
#include "tests/testing/messages_only.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/sanitized.h"

namespace furrow::comm {
namespace {

using reference::Bytes;
using reference::Problem;

constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16,
                            DType::kI64, DType::kI32, DType::kU8};
constexpr int64_t kSizes[] = {0, 1, 3, 100, 1000, 10007};
constexpr size_t kCanary = 64;

bool full() { return std::getenv("FURROW_TEST_FULL") != nullptr; }

struct Case {
  CollectiveKind kind = CollectiveKind::kAllReduce;
  int64_t size = 0;
  DType dtype = DType::kF32;
  Reduction reduction = Reduction::kSum;
  std::string algorithm;
  bool in_place = false;
  uint64_t seed = 0;
  bool canonical = false;  // the group

  uint64_t bits(int what) const { return (seed * 0x9e3779b97f4a7c15) >> (4 * what) & 15; }
  bool uneven() const { return bits(3) % 2 == 1; }
  bool registered() const { return bits(4) % 2 == 1; }
  bool shifted() const { return bits(5) % 4 == 1; }  // by one element
  // What really runs in a world whose ranks are on these hosts.
  std::string runs_by(const std::vector<int>& host) const {
    const bool ordered = canonical && reference::order_matters(kind, dtype, reduction);
    return reference::runs_by(algorithm, kind, ordered, host);
  }
  std::string text() const {
    return fmt::format("{} of {} {} ({}) by {}{}{}{}{}", to_string(kind), size, to_string(dtype),
                       to_string(reduction), algorithm, canonical ? ", canonical" : "",
                       in_place ? ", in place" : "", uneven() ? ", uneven" : "",
                       registered() ? ", registered" : "");
  }
};

uint64_t hash(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

using Pair = std::pair<CollectiveKind, std::string>;  // an operation and an algorithm

// All of the product, or some `wanted` of it: what its algorithm can carry out.  Of every operation and
// algorithm that can there is one case at least that really runs by it.
std::vector<Case> make_cases(uint64_t salt, size_t wanted, const std::vector<int>& host) {
  std::vector<Case> cases;
  uint64_t number = salt << 32;
  for (int kind = 0; kind < kCollectiveKinds; ++kind) {
    if (static_cast<CollectiveKind>(kind) == CollectiveKind::kRecv) continue;  // with send
    for (const AlgorithmRow& row : algorithm_rows()) {
      if (!reference::can_run(std::string(row.name), static_cast<CollectiveKind>(kind), host)) continue;
      for (const int64_t size : kSizes) {
        for (const DType dtype : kTypes) {
          for (int reduction = 0;
               reduction < (reference::reduces(static_cast<CollectiveKind>(kind)) ? kReductions : 1);
               ++reduction) {
            for (const bool in_place : {false, true}) {
              if (in_place && static_cast<CollectiveKind>(kind) == CollectiveKind::kAllToAll) continue;
              cases.push_back({static_cast<CollectiveKind>(kind), size, dtype,
                               static_cast<Reduction>(reduction), std::string(row.name), in_place,
                               hash(++number)});
              cases.back().canonical = cases.back().bits(8) % 4 == 0;
              if (!full()) continue;
              cases.push_back(cases.back());
              cases.back().canonical = !cases.back().canonical;
            }
          }
        }
      }
    }
  }
  if (full()) return cases;
  std::stable_sort(cases.begin(), cases.end(), [](const Case& a, const Case& b) { return a.seed < b.seed; });
  std::set<Pair> first;
  const auto rest = std::stable_partition(cases.begin(), cases.end(), [&](const Case& c) {
    return c.runs_by(host) == c.algorithm && first.emplace(c.kind, c.algorithm).second;
  });
  cases.resize(std::max(static_cast<size_t>(rest - cases.begin()), std::min(wanted, cases.size())));
  return cases;
}

std::vector<int64_t> random_counts(int64_t total, int n, uint64_t seed) {
  std::vector<int64_t> cuts = {0, total};
  for (int i = 1; i < n; ++i)
    cuts.push_back(
        static_cast<int64_t>(hash(seed + static_cast<uint64_t>(i)) % static_cast<uint64_t>(total + 1)));
  std::sort(cuts.begin(), cuts.end());
  std::vector<int64_t> counts;
  for (int i = 0; i < n; ++i)
    counts.push_back(cuts[static_cast<size_t>(i) + 1] - cuts[static_cast<size_t>(i)]);
  return counts;
}

// The inputs and the outputs that every rank of one case shares; made by whoever comes first, given back by
// whoever is the last: those of all cases of 32 ranks take tens of gigabytes.
struct Shared {
  std::once_flag once;
  std::atomic<int> done{0};  // ranks
  Problem problem;
  std::vector<Bytes> outputs;

  void finish(int ranks) {
    if (++done < ranks) return;
    problem = {};
    outputs = {};
  }
};

void make_problem(const Case& c, const std::vector<int>& host, Shared& shared) {
  const auto n = static_cast<int>(host.size());
  Problem& p = shared.problem;
  p.kind = c.kind;
  p.dtype = c.dtype;
  p.reduction = c.reduction;
  p.order = c.canonical ? reference::Order::kTree : reference::order_of(c.algorithm);
  p.root = static_cast<int>(c.bits(6) % static_cast<uint64_t>(n));
  p.host = host;
  p.counts =
      c.uneven() ? random_counts(c.size, n, c.seed) : std::vector<int64_t>(static_cast<size_t>(n), c.size);
  for (int r = 0; r < n; ++r) {
    int64_t elements = c.size;
    if (c.kind == CollectiveKind::kReduceScatter)
      elements = std::accumulate(p.counts.begin(), p.counts.end(), int64_t{0});
    if (c.kind == CollectiveKind::kAllGather) elements = p.counts[static_cast<size_t>(r)];
    if (c.kind == CollectiveKind::kBarrier) elements = 0;
    if (c.kind == CollectiveKind::kAllToAll) {
      p.matrix.push_back(c.uneven() ? random_counts(c.size, n, c.seed + 99 * static_cast<uint64_t>(r + 1))
                                    : p.counts);
      elements = std::accumulate(p.matrix.back().begin(), p.matrix.back().end(), int64_t{0});
    }
    p.in.push_back(reference::make_input(c.dtype, c.reduction, elements, c.seed + static_cast<uint64_t>(r)));
  }
  shared.outputs = reference::outputs(p);
}

// Bytes followed by canaries, in memory of either kind.
class Buffer {
 public:
  Buffer(Communicator& communicator, const Case& c, size_t bytes)
      : offset_(c.shifted() ? dtype_size(c.dtype) : 0), size_(bytes) {
    const size_t room = offset_ + bytes + kCanary;
    if (c.registered()) {
      memory_ = communicator.allocate(room);
      data_ = memory_.data();
    } else {
      plain_.resize(room / 8 + 1);
      data_ = reinterpret_cast<std::byte*>(plain_.data());
    }
    std::memset(data_, 0xa5, room);
  }
  std::span<std::byte> bytes() { return {data_ + offset_, size_}; }
  bool intact() const {
    return std::all_of(data_ + offset_ + size_, data_ + offset_ + size_ + kCanary,
                       [](std::byte b) { return b == std::byte{0xa5}; });
  }

 private:
  size_t offset_, size_;
  Memory memory_;
  std::vector<int64_t> plain_;
  std::byte* data_;
};

class Runner {
 public:
  Runner(Communicator& communicator, const Case& c, const Shared& shared)
      : communicator_(communicator), c_(c), p_(shared.problem), expected_(shared.outputs[rank()]) {}

  void run(Group& group) {
    const Bytes& input = p_.in[rank()];
    Buffer in(communicator_, c_, input.size()),
        out(communicator_, c_, std::max(expected_.size(), in_place_bytes()));
    call_ = {.kind = c_.kind, .dtype = c_.dtype, .reduction = c_.reduction, .label = "case"};
    call_.out = out.bytes().first(expected_.size());
    set_arguments();
    call_.in = c_.in_place ? place_in(out) : in.bytes();
    if (!input.empty()) std::memcpy(const_cast<std::byte*>(call_.in.data()), input.data(), input.size());
    if (c_.kind == CollectiveKind::kSend) {
      exchange(group);
    } else if (c_.bits(7) % 2 == 0) {
      group.run(call_);
    } else {
      group.start(call_).wait();
    }
    judge(in, out);
  }

 private:
  size_t rank() const { return static_cast<size_t>(communicator_.rank()); }
  size_t element() const { return dtype_size(c_.dtype); }
  size_t own_begin() const {
    return static_cast<size_t>(
               std::accumulate(p_.counts.begin(), p_.counts.begin() + communicator_.rank(), int64_t{0})) *
           element();
  }
  size_t in_place_bytes() const { return c_.in_place ? p_.in[rank()].size() : 0; }

  void set_arguments() {
    if (c_.kind == CollectiveKind::kBroadcast || c_.kind == CollectiveKind::kReduce)
      call_.root_or_peer = p_.root;
    const bool sliced = c_.kind == CollectiveKind::kReduceScatter || c_.kind == CollectiveKind::kAllGather;
    if (sliced && c_.uneven()) call_.counts = p_.counts;
    if (c_.kind != CollectiveKind::kAllToAll || !c_.uneven()) return;
    call_.send_counts = p_.matrix[rank()];
    for (const auto& row : p_.matrix) call_.recv_counts.push_back(row[rank()]);
  }

  std::span<const std::byte> place_in(Buffer& out) {
    if (c_.kind == CollectiveKind::kReduceScatter) {  // the own slice of in
      call_.out = out.bytes().subspan(own_begin(), expected_.size());
      return out.bytes().first(p_.in[rank()].size());
    }
    if (c_.kind == CollectiveKind::kAllGather) return out.bytes().subspan(own_begin(), p_.in[rank()].size());
    return out.bytes().first(p_.in[rank()].size());
  }

  void exchange(Group& group) {
    const int peer = communicator_.rank() ^ 1;
    if (peer >= communicator_.size()) return;
    const Bytes copy = p_.in[rank()];
    call_.root_or_peer = peer;
    Collective recv = call_;
    recv.kind = CollectiveKind::kRecv;
    recv.in = {};
    call_.in = copy;
    call_.out = {};
    group.start({call_, recv}).wait();
    call_.out = recv.out;
  }

  void judge(const Buffer& in, const Buffer& out) {
    EXPECT_TRUE(reference::same(c_.dtype, call_.out.data(), expected_.data(),
                                static_cast<int64_t>(expected_.size() / element())))
        << c_.text() << " at rank " << rank() << " of " << communicator_.size();
    EXPECT_TRUE(in.intact() && out.intact()) << c_.text() << ": written behind the buffer";
    if (c_.kind == CollectiveKind::kSend) return;
    if (c_.in_place && c_.kind != CollectiveKind::kReduceScatter) return;
    Bytes kept(call_.in.begin(), call_.in.end());
    if (c_.in_place && !expected_.empty())
      std::memcpy(kept.data() + own_begin(), p_.in[rank()].data() + own_begin(), expected_.size());
    EXPECT_TRUE(kept == p_.in[rank()]) << c_.text() << ": `in` has changed";
  }

  Communicator& communicator_;
  const Case& c_;
  const Problem& p_;
  const Bytes& expected_;
  Collective call_;
};

struct Setting {
  std::string transport;  // of the table, or "messages"
  int ranks = 1;
  int hosts = 1;             // that the roster claims
  bool interleaved = false;  // rank r on host r % hosts
  bool tcp_between = false;  // hosts; else the transport reaches them too
};

std::string name_of(const ::testing::TestParamInfo<Setting>& info) {
  const Setting& s = info.param;
  return fmt::format("{}{}_{}ranks{}{}", s.transport, s.tcp_between ? "_tcp" : "", s.ranks,
                     s.hosts > 1 ? fmt::format("_{}hosts", s.hosts) : "",
                     s.interleaved ? "_interleaved" : "");
}

std::vector<int> hosts_of(const Setting& s) {
  std::vector<int> host;
  for (int r = 0; r < s.ranks; ++r) host.push_back(s.interleaved ? r % s.hosts : r * s.hosts / s.ranks);
  return host;
}

class Conformance : public ::testing::TestWithParam<Setting> {
 protected:
  // Every operation of every algorithm that can run here did; the report says how often each.
  void expect_all_ran(const std::string& setting, const std::map<Pair, int>& cases,
                      const std::vector<int>& host) {
    std::string text;
    for (const AlgorithmRow& row : algorithm_rows()) {
      const std::string name(row.name);
      int all = 0;
      for (int kind = 0; kind < kCollectiveKinds; ++kind) {
        const Pair pair(static_cast<CollectiveKind>(kind), name);
        const auto ran = cases.find(pair);
        all += ran == cases.end() ? 0 : ran->second;
        if (pair.first == CollectiveKind::kRecv || !reference::can_run(name, pair.first, host)) continue;
        EXPECT_TRUE(ran != cases.end()) << "no " << to_string(pair.first) << " ran by " << name;
      }
      RecordProperty("by_" + name, all);
      text += fmt::format("{} {} {}", text.empty() ? "" : ",", name, all);
    }
    fmt::print("{} cases by{}\n", setting, text);
  }
};

// Peers of the own host see this rank's memory, others do not: Wires::kMixed.
void expect_mixed_wires(Communicator& communicator, const std::vector<int>& host) {
  const auto here = [&](int rank) { return host[static_cast<size_t>(rank)]; };
  for (int peer = 0; peer < communicator.size(); ++peer) {
    if (peer == communicator.rank()) continue;
    EXPECT_EQ(communicator.route(peer).peer_memory() != nullptr, here(peer) == here(communicator.rank()));
  }
}

TEST_P(Conformance, EqualsTheReference) {
  const Setting s = GetParam();
  const bool messages = s.transport == "messages";
  const std::vector<int> host = hosts_of(s);
  const std::vector<Case> cases = make_cases(
      static_cast<uint64_t>(s.ranks + 100 * s.hosts + (messages ? 1000 : 0) + (s.tcp_between ? 2000 : 0)),
      static_cast<size_t>(s.ranks > 16 ? 20 : 20 + 400 / s.ranks) / (testing::kSanitized ? 2 : 1), host);
  std::map<Pair, int> ran;  // as rank 0 has it
  std::vector<Shared> shared(cases.size());
  testing::RankOptions options;
  options.transport = messages ? "inproc" : s.transport;
  if (messages) {
    options.wrap = [](std::unique_ptr<Transport> t) {
      return std::make_unique<testing::MessagesOnly>(std::move(t));
    };
  }
  if (s.hosts > 1) options.host = host;
  options.tcp_between_hosts = s.tcp_between;
  testing::run_ranks_with(s.ranks, options, [&](Communicator& communicator) {
    if (s.tcp_between) expect_mixed_wires(communicator, host);
    Group strict = communicator.group(communicator.world().members(), {.name = "strict"});
    Group loose = communicator.group(communicator.world().members(), {.name = "loose", .canonical = false});
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      AlgorithmTable table;
      for (const Wires wires : {Wires::kMemory, Wires::kMixed, Wires::kMessages, Wires::kLoopback}) {
        table.set(c.kind, wires, s.ranks,
                  {{c.kind, wires, s.ranks, INT64_MAX, algorithm_index(c.algorithm)}});
      }
      communicator.set_algorithms(table);
      std::call_once(shared[i].once, [&] { make_problem(c, host, shared[i]); });
      Runner(communicator, c, shared[i]).run(c.canonical ? strict : loose);
      const std::string by = testing::ran_by(communicator, c.canonical ? "strict" : "loose", c.kind);
      const bool alone = c.kind == CollectiveKind::kSend && (communicator.rank() ^ 1) >= s.ranks;
      EXPECT_EQ(by, alone ? "none" : c.runs_by(host)) << c.text();
      if (communicator.rank() == 0) ++ran[{c.kind, by}];
      shared[i].finish(s.ranks);
    }
  });
  expect_all_ran(name_of({s, 0}), ran, host);
}

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const TransportRow& row : transport_rows()) {
    for (const int n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 32}) {
      if (testing::kSanitized && (n == 24 || (n > 12 && n < 16))) continue;
      if (n > 1 || row.name == "inproc") all.push_back({std::string(row.name), n});
    }
  }
  for (const int n : {2, 3, 4, 7, 8}) all.push_back({"messages", n});
  for (const auto& [n, hosts] : {std::pair(4, 2), {6, 3}, {8, 2}, {8, 4}, {12, 4}, {5, 2}}) {
    all.push_back({"messages", n, hosts});
    all.push_back({"messages", n, hosts, true});
    if (n < 12) all.push_back({"inproc", n, hosts, n == 6});
    if (n == 12) continue;
    all.push_back({"inproc", n, hosts, n == 8, true});
    all.push_back({"shm", n, hosts, n == 6, true});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Table, Conformance, ::testing::ValuesIn(settings()), name_of);

}  // namespace
}  // namespace furrow::comm
