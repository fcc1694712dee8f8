// The backend nccl against the reference of the conformance test, over a library that stands in for NCCL and
// CUDA (fake_nccl.cc) and whose device memory no code of ours can touch.  With FURROW_REAL_NCCL over the
// system's own libraries; it then skips itself where there are none, or no GPU.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/conformance_reference.h"
#include "furrow/comm/nccl/exchange.h"
#include "furrow/comm/nccl/test_support.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using reference::Bytes;
using reference::Problem;
using ::testing::HasSubstr;

struct Case {
  CollectiveKind kind = CollectiveKind::kAllReduce;
  int64_t size = 0;
  DType dtype = DType::kF32;
  Reduction reduction = Reduction::kSum;
  bool in_place = false, uneven = false;
  uint64_t seed = 0;
  std::string text() const {
    return fmt::format("{} of {} {} ({}){}{}", to_string(kind), size, to_string(dtype), to_string(reduction),
                       in_place ? ", in place" : "", uneven ? ", uneven" : "");
  }
};

// A sample of kinds x sizes x types x reductions x places x slices, the same each time.
std::vector<Case> make_cases(int ranks, size_t wanted) {
  std::vector<Case> cases;
  uint64_t number = static_cast<uint64_t>(ranks) << 32;
  for (const CollectiveKind kind :
       {CollectiveKind::kAllReduce, CollectiveKind::kReduceScatter, CollectiveKind::kAllGather,
        CollectiveKind::kBroadcast, CollectiveKind::kReduce, CollectiveKind::kAllToAll}) {
    const bool reduces = kind == CollectiveKind::kAllReduce || kind == CollectiveKind::kReduceScatter ||
                         kind == CollectiveKind::kReduce;
    for (const int64_t size : {0, 1, 3, 100, 1000}) {
      for (const DType dtype :
           {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64, DType::kI32, DType::kU8}) {
        for (int reduction = 0; reduction < (reduces ? kReductions : 1); ++reduction) {
          for (const int how : {0, 1, 2, 3}) {
            if (how % 2 == 1 && kind == CollectiveKind::kAllToAll) continue;
            cases.push_back({kind, size, dtype, static_cast<Reduction>(reduction), how % 2 == 1, how >= 2,
                             ++number * 0x9e3779b97f4a7c15});
          }
        }
      }
    }
  }
  std::stable_sort(cases.begin(), cases.end(), [](const Case& a, const Case& b) { return a.seed < b.seed; });
  cases.resize(std::min(wanted, cases.size()));
  return cases;
}

std::vector<int64_t> counts_of(const Case& c, int ranks, int salt) {
  std::vector<int64_t> counts;
  for (int r = 0; r < ranks; ++r)
    counts.push_back(c.uneven ? (c.size * ((r + salt) % 3)) / 2 : c.size);  // some are empty
  return counts;
}

Problem problem_of(const Case& c, int ranks) {
  Problem p;
  p.kind = c.kind;
  p.dtype = c.dtype;
  p.reduction = c.reduction;
  p.counts = counts_of(c, ranks, 0);
  p.root = static_cast<int>(c.seed % static_cast<uint64_t>(ranks));
  p.host.assign(static_cast<size_t>(ranks), 0);
  for (int r = 0; r < ranks; ++r) {
    int64_t elements = c.size;
    if (c.kind == CollectiveKind::kReduceScatter)
      elements = std::accumulate(p.counts.begin(), p.counts.end(), int64_t{0});
    if (c.kind == CollectiveKind::kAllGather) elements = p.counts[static_cast<size_t>(r)];
    if (c.kind == CollectiveKind::kAllToAll) {
      p.matrix.push_back(counts_of(c, ranks, r));
      elements = std::accumulate(p.matrix.back().begin(), p.matrix.back().end(), int64_t{0});
    }
    p.in.push_back(reference::make_input(c.dtype, c.reduction, elements, c.seed + static_cast<uint64_t>(r)));
  }
  return p;
}

// What one rank's `out` holds afterwards.
Bytes run_case(Communicator& communicator, Group group, const Case& c, const Problem& p,
               const Bytes& expected) {
  const auto self = static_cast<size_t>(communicator.rank());
  const size_t element = dtype_size(c.dtype);
  const auto before = static_cast<size_t>(
      std::accumulate(p.counts.begin(), p.counts.begin() + communicator.rank(), int64_t{0}));
  Collective call{.kind = c.kind, .dtype = c.dtype, .reduction = c.reduction, .label = "case"};
  if (c.kind == CollectiveKind::kBroadcast || c.kind == CollectiveKind::kReduce) call.root_or_peer = p.root;
  const bool sliced = c.kind == CollectiveKind::kReduceScatter || c.kind == CollectiveKind::kAllGather;
  if (sliced && c.uneven) call.counts = p.counts;
  if (c.kind == CollectiveKind::kAllToAll && c.uneven) {
    call.send_counts = p.matrix[self];
    for (const auto& row : p.matrix) call.recv_counts.push_back(row[self]);
  }
  Bytes whole = p.in[self];
  if (c.in_place && c.kind == CollectiveKind::kAllGather) {
    whole.assign(expected.size(), std::byte{0x5a});
    if (!p.in[self].empty())
      std::memcpy(whole.data() + before * element, p.in[self].data(), p.in[self].size());
  }
  const DeviceBuffer in(whole), out(Bytes(expected.size(), std::byte{0x5a}));
  call.in = in.bytes();
  call.out = out.bytes();
  if (c.kind == CollectiveKind::kBroadcast && communicator.rank() != p.root) call.in = {};
  if (c.in_place) {
    if (c.kind == CollectiveKind::kReduceScatter) {
      call.out = in.bytes().subspan(before * element, expected.size());
    } else if (c.kind == CollectiveKind::kAllGather) {
      call.out = in.bytes();
      call.in = in.bytes().subspan(before * element, p.in[self].size());
    } else if (c.kind == CollectiveKind::kAllReduce || communicator.rank() == p.root) {
      call.out = in.bytes();
    }
  }
  if (c.kind == CollectiveKind::kReduce && communicator.rank() != p.root) call.out = {};
  if (c.seed % 2 == 0) {
    group.run(call);
  } else {
    group.start(call).wait();
  }
  if (call.out.empty()) return {};
  const Bytes all =
      call.out.data() >= in.bytes().data() && call.out.data() < in.bytes().data() + in.bytes().size()
          ? in.content()
          : out.content();
  const size_t begin = c.in_place && c.kind == CollectiveKind::kReduceScatter ? before * element : 0;
  return {all.begin() + static_cast<ptrdiff_t>(begin),
          all.begin() + static_cast<ptrdiff_t>(begin + call.out.size())};
}

// Over communicators that are polled, and over those that block, as all did before NCCL 2.14.
class Nccl : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (blocking()) ::setenv("NCCL_COMM_BLOCKING", "1", 1);
    if (!kReal) {
      library();
      take_calls();
      take_host_copies();
      return;
    }
    try {
      library();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
    while (devices_ < 8 && library().cuda.set_device(devices_) == kCudaSuccess) ++devices_;
    if (devices_ == 0) GTEST_SKIP() << "no GPU";
  }

  // Ranks that are threads, each with a device of its own.
  void run_ranks(int ranks, const std::function<void(Communicator&)>& body,
                 int64_t timeout_ms = 20'000) const {
    testing::run_ranks(ranks,
                       [&](Communicator& communicator) {
                         check_cuda(library(), library().cuda.set_device(communicator.rank()), "device");
                         communicator.use_device(device_that_adds(communicator.rank(), adds_));
                         body(communicator);
                       },
                       {.timeout_ms = timeout_ms, .backend = "nccl"});
  }
  void TearDown() override { ::unsetenv("NCCL_COMM_BLOCKING"); }
  static bool blocking() { return GetParam(); }
  bool enough(int ranks) const { return !kReal || ranks <= devices_; }

  int devices_ = 0;
  Adds adds_ = kReal ? Adds::kOnHost : Adds::kInStream;
};

TEST_P(Nccl, EqualsTheReference) {
  for (const int which : {1, 2, 3, 4, 5, 13, 14, 15, 23}) {  // who adds, and how many ranks
    const int ranks = which % 10;
    if (!kReal) adds_ = which < 10 ? Adds::kInStream : which < 20 ? Adds::kOnHost : Adds::kInCaller;
    if (!enough(ranks) || (kReal && which > 10)) continue;
    const std::vector<Case> cases = make_cases(ranks, 120);
    std::vector<Problem> problems;
    std::vector<std::vector<Bytes>> expected;
    for (const Case& c : cases) {
      problems.push_back(problem_of(c, ranks));
      expected.push_back(reference::outputs(problems.back()));
    }
    run_ranks(ranks, [&](Communicator& communicator) {
      const auto self = static_cast<size_t>(communicator.rank());
      for (size_t i = 0; i < cases.size(); ++i) {
        const Bytes out =
            run_case(communicator, communicator.world(), cases[i], problems[i], expected[i][self]);
        ASSERT_EQ(out.size(), expected[i][self].size()) << cases[i].text();
        EXPECT_TRUE(reference::same(cases[i].dtype, out.data(), expected[i][self].data(),
                                    static_cast<int64_t>(out.size() / dtype_size(cases[i].dtype))))
            << cases[i].text() << " at rank " << self << " of " << ranks << ", added by the "
            << to_string(adds_);
      }
    });
  }
}

// Who adds, and by which function: NCCL where its order cannot show.  Nothing goes over the host where
// somebody adds on the device.
TEST_P(Nccl, TakesTheFunctionThatKeepsTheRules) {
  if (kReal) GTEST_SKIP() << "counts calls of the fake";
  struct Expected {
    int ranks;
    bool canonical;
    Case c;
    std::array<int64_t, 7> calls;  // of one rank
  };
  const auto all_reduce = CollectiveKind::kAllReduce, scatter = CollectiveKind::kReduceScatter,
             gather = CollectiveKind::kAllGather;
  const std::vector<Expected> table = {
      {2, true, {all_reduce, 100, DType::kF32}, {1}},
      {3, true, {all_reduce, 100, DType::kF32}, {0, 0, 0, 0, 0, 4, 4}},  // slices out, sums back
      {3, false, {all_reduce, 100, DType::kF32}, {1}},
      {3, true, {all_reduce, 100, DType::kI64}, {1}},
      {3, true, {all_reduce, 100, DType::kI32, Reduction::kAvg}, {0, 0, 0, 0, 0, 4, 4}},
      {2, true, {all_reduce, 100, DType::kF32, Reduction::kAvg}, {0, 0, 0, 0, 0, 2, 2}},
      {2, true, {all_reduce, 100, DType::kBF16}, {0, 0, 0, 0, 0, 2, 2}},
      {3, false, {all_reduce, 100, DType::kBF16}, {1}},
      {3, false, {all_reduce, 100, DType::kF32, Reduction::kMax}, {0, 0, 0, 0, 0, 4, 4}},  // NaNs
      {3, false, {scatter, 100, DType::kF32}, {0, 1}},
      {3, false, {scatter, 100, DType::kF32, Reduction::kSum, false, true}, {0, 0, 0, 0, 2}},  // one is empty
      {3, true, {gather, 100, DType::kF32}, {0, 0, 1}},
      {3, true, {CollectiveKind::kBroadcast, 100, DType::kF32}, {0, 0, 0, 1}},
      {3, false, {CollectiveKind::kReduce, 100, DType::kF64}, {0, 0, 0, 0, 1}},
      {3, true, {CollectiveKind::kAllToAll, 100, DType::kF32}, {0, 0, 0, 0, 0, 2, 2}},
  };
  for (const Expected& e : table) {
    const Problem p = problem_of(e.c, e.ranks);
    const auto outputs = reference::outputs(p);
    run_ranks(e.ranks, [&](Communicator& communicator) {
      Group group = communicator.group(communicator.world().members(), {.canonical = e.canonical});
      run_case(communicator, group, e.c, p, outputs[static_cast<size_t>(communicator.rank())]);
    });
    std::array<int64_t, 7> calls = take_calls();
    for (int64_t& n : calls) n /= e.ranks;
    EXPECT_EQ(calls, e.calls) << e.c.text() << (e.canonical ? " canonical" : "") << " on " << e.ranks;
    EXPECT_EQ(take_host_copies(), 0) << e.c.text();
  }
  adds_ = Adds::kOnHost;
  run_ranks(3, [&](Communicator& communicator) {
    const DeviceBuffer data(Bytes(1200));
    communicator.world().run({.kind = CollectiveKind::kAllReduce, .in = data.bytes(), .out = data.bytes()});
  });
  EXPECT_EQ(take_host_copies(), 3 * (1200 + 400)) << "control: all terms down, sums up";
}

// Negative control of EqualsTheReference: in NCCL's own order the sum of three ranks has other bits, and
// about the same value.
TEST_P(Nccl, AGroupThatIsNotCanonicalAddsInNcclsOrder) {
  if (kReal) GTEST_SKIP() << "a real NCCL may take any order";
  const Case c{CollectiveKind::kAllReduce, 1000, DType::kF32};
  const Problem p = problem_of(c, 3);
  const auto expected = reference::outputs(p);
  run_ranks(3, [&](Communicator& communicator) {
    Group group = communicator.group(communicator.world().members(), {.canonical = false});
    const Bytes out = run_case(communicator, group, c, p, expected[0]);
    EXPECT_FALSE(reference::same(c.dtype, out.data(), expected[0].data(), 1000));
    for (size_t i = 0; i < 1000; ++i) {
      float a = 0, b = 0;
      std::memcpy(&a, out.data() + 4 * i, 4);
      std::memcpy(&b, expected[0].data() + 4 * i, 4);
      EXPECT_NEAR(a, b, 1e-4 * (1 + std::abs(b)));
    }
  });
}

TEST_P(Nccl, TransfersGoAroundTheRingAtOnce) {
  for (const int ranks : {2, 3, 4}) {
    if (!enough(ranks)) continue;
    run_ranks(ranks, [&](Communicator& communicator) {
      Group world = communicator.world();
      const int n = world.size(), next = (world.rank() + 1) % n, before = (world.rank() + n - 1) % n;
      for (int round = 0; round < 3; ++round) {
        const DeviceBuffer out(Bytes(100, static_cast<std::byte>(10 * round + world.rank())));
        const DeviceBuffer in(Bytes(100, std::byte{0xff}));
        Collective send{
            .kind = CollectiveKind::kSend, .dtype = DType::kU8, .in = out.bytes(), .label = "ring"};
        Collective recv{
            .kind = CollectiveKind::kRecv, .dtype = DType::kU8, .out = in.bytes(), .label = "ring"};
        send.root_or_peer = next;
        recv.root_or_peer = before;
        world.start({send, recv}).wait();
        EXPECT_EQ(in.content(), Bytes(100, static_cast<std::byte>(10 * round + before)));
      }
    });
  }
}

// A receive on a device whose message comes last holds up neither collectives nor transfers the other way.
TEST_P(Nccl, LanesPassCollectives) {
  if (!enough(2)) GTEST_SKIP() << "one GPU";
  run_ranks(2, [](Communicator& communicator) {
    Group forth = communicator.group({0, 1}, {.name = "forth", .independent = true});
    Group home = communicator.group({1, 0}, {.name = "home", .independent = true});
    const bool first = communicator.rank() == 0;
    Group &in = first ? home : forth, &out = first ? forth : home;
    const DeviceBuffer sent(Bytes(400, static_cast<std::byte>(communicator.rank()))),
        received(Bytes(400, std::byte{0x5a})), sum(Bytes(1 << 16));
    std::vector<float> word = {1};
    Collective recv{
        .kind = CollectiveKind::kRecv, .out = received.bytes(), .root_or_peer = 0, .label = "act"};
    Collective send{.kind = CollectiveKind::kSend, .in = sent.bytes(), .root_or_peer = 1, .label = "act"};
    Collective recv_word{.kind = CollectiveKind::kRecv, .root_or_peer = 0, .label = "word"};
    recv_word.out = std::as_writable_bytes(std::span(word));
    Collective send_word{.kind = CollectiveKind::kSend, .root_or_peer = 1, .label = "word"};
    const float own = static_cast<float>(communicator.rank());
    send_word.in = std::as_bytes(std::span(&own, 1));
    Work arrives = in.start(recv), word_arrives = in.start(recv_word);
    for (int i = 0; i < 3; ++i) {
      communicator.world().run(
          {.kind = CollectiveKind::kAllReduce, .in = sum.bytes(), .out = sum.bytes(), .label = "sum"});
    }
    EXPECT_FALSE(arrives.done());
    EXPECT_FALSE(word_arrives.done()) << "the host's operations keep their place";
    communicator.world().barrier();
    Work leaves = out.start(send), word_leaves = out.start(send_word);
    for (Work* work : {&arrives, &word_arrives, &leaves, &word_leaves}) work->wait();
    EXPECT_EQ(received.content(), Bytes(400, static_cast<std::byte>(1 - communicator.rank())));
    EXPECT_EQ(word[0], static_cast<float>(1 - communicator.rank()));
  });
}

TEST_P(Nccl, MemoryOfTheHostGoesAsWithTheNativeBackend) {
  if (!enough(2)) GTEST_SKIP() << "one GPU";
  run_ranks(2, [](Communicator& communicator) {
    std::vector<float> data(100, static_cast<float>(communicator.rank() + 1));
    communicator.world().all_reduce(std::span(data));
    EXPECT_EQ(data, std::vector<float>(100, 3));
    EXPECT_EQ(
        communicator.would_run({.kind = CollectiveKind::kAllReduce, .in = std::as_bytes(std::span(data))},
                               communicator.world()),
        "flat");
    communicator.world().barrier();
    const DeviceBuffer device(Bytes(400));
    EXPECT_THAT(
        [&] {
          communicator.world().run({.kind = CollectiveKind::kAllReduce,
                                    .in = std::as_bytes(std::span(data)),
                                    .out = device.bytes(),
                                    .label = "mixed"});
        },
        ::testing::ThrowsMessage<Error>(
            HasSubstr("'mixed' in group world: its buffers are on the host and")));
  });
  if (kReal) return;
  EXPECT_EQ(take_calls(), (std::array<int64_t, 7>{}));
}

TEST_P(Nccl, TheLedgerHasTheBoundAndNothingOfTheMeetings) {
  if (!enough(2)) GTEST_SKIP() << "one GPU";
  run_ranks(2, [](Communicator& communicator) {
    const DeviceBuffer data(Bytes(1 << 16));
    std::vector<float> host(4);
    for (int i = 0; i < 10; ++i) {
      communicator.world().run(
          {.kind = CollectiveKind::kAllReduce, .in = data.bytes(), .out = data.bytes(), .label = "device"});
    }
    communicator.world().all_reduce(std::span(host), Reduction::kSum, "host");
    for (const LedgerRow& row : communicator.ledger().rows()) {
      EXPECT_EQ(row.bound_bytes, row.label == "device" ? 10 << 16 : 16);
      EXPECT_LE(row.wire_bytes, row.bound_bytes + (row.label == "host" ? 128 : 0)) << row.label;
    }
  });
}

// What every rank's error says.
std::vector<std::string> errors_of(int ranks, const std::function<void(Communicator&)>& body,
                                   int64_t timeout_ms, Adds adds = Adds::kOnHost) {
  std::vector<std::string> errors(static_cast<size_t>(ranks));
  testing::run_ranks(ranks,
                     [&](Communicator& communicator) {
                       library().cuda.set_device(communicator.rank());
                       communicator.use_device(device_that_adds(communicator.rank(), adds));
                       try {
                         body(communicator);
                       } catch (const Error& error) {
                         errors[static_cast<size_t>(communicator.rank())] =
                             fmt::format("{}: {}", to_string(error.code()), error.what());
                       }
                     },
                     {.timeout_ms = timeout_ms, .backend = "nccl"});
  return errors;
}

void all_reduce(Communicator& communicator, size_t elements, const std::string& label,
                int64_t timeout_ms = 0) {
  const DeviceBuffer data(Bytes(4 * elements));
  communicator.world().run({.kind = CollectiveKind::kAllReduce,
                            .in = data.bytes(),
                            .out = data.bytes(),
                            .label = label,
                            .timeout_ms = timeout_ms});
}

TEST_P(Nccl, AMismatchIsEveryRanksErrorBeforeNcclIsCalled) {
  if (!enough(2)) GTEST_SKIP() << "one GPU";
  const auto errors =
      errors_of(2, [](Communicator& c) { all_reduce(c, c.rank() == 0 ? 100 : 101, "grads"); }, 5'000);
  for (const std::string& error : errors) {
    EXPECT_THAT(error, HasSubstr("failed_precondition"));
    EXPECT_THAT(error, HasSubstr("'grads' #0 of 101"));
    EXPECT_THAT(error, HasSubstr("'grads' #0 of 100 "));
  }
  if (kReal) return;
  EXPECT_EQ(take_calls(), (std::array<int64_t, 7>{}));
}

TEST_P(Nccl, CountsOfAnAllToAllMustMeet) {
  if (!enough(2)) GTEST_SKIP() << "one GPU";
  const auto errors = errors_of(
      2,
      [](Communicator& c) {
        const DeviceBuffer in(Bytes(80)), out(Bytes(80));
        Collective call{.kind = CollectiveKind::kAllToAll, .in = in.bytes(), .out = out.bytes()};
        call.send_counts = {10, 10};
        call.recv_counts = c.rank() == 0 ? std::vector<int64_t>{10, 10} : std::vector<int64_t>{9, 11};
        c.world().run(call);
      },
      60'000);
  for (const std::string& error : errors)
    EXPECT_THAT(error, HasSubstr("sends 10 elements, this rank expects 9"));
}

TEST_P(Nccl, ARankThatDoesNotComeIsNamedAtTheDeadline) {
  if (!enough(2)) GTEST_SKIP() << "one GPU";
  std::atomic<bool> over = false;
  struct AtEnd {
    std::atomic<bool>& flag;
    ~AtEnd() { flag = true; }
  };
  const auto errors = errors_of(
      2,
      [&over](Communicator& c) {
        all_reduce(c, 10, "first");
        while (c.rank() == 1 && !over) std::this_thread::yield();
        const AtEnd end{over};
        if (c.rank() == 0) all_reduce(c, 10, "second", 300);
      },
      20'000);
  EXPECT_THAT(errors[0], HasSubstr("deadline_exceeded"));
  EXPECT_THAT(errors[0], HasSubstr("'second' #1"));
  EXPECT_THAT(errors[0], HasSubstr("rank 1"));
}

// What goes wrong inside NCCL ends the wait, and its communicators are aborted so that nothing writes on.
TEST_P(Nccl, AnOperationThatHangsOrFailsIsAborted) {
  if (kReal) GTEST_SKIP() << "breaks the fake";
  const auto aborts = fake<int64_t (*)()>("fake_nccl_aborts"), live = fake<int64_t (*)()>("fake_nccl_live");
  const auto stall = fake<void (*)(bool)>("fake_nccl_stall");
  const auto fail = fake<void (*)(int)>("fake_nccl_fail");
  const auto take_queries = fake<int64_t (*)()>("fake_cuda_take_queries");
  for (const auto& [hangs, adds] :
       {std::pair(true, Adds::kInStream), std::pair(true, Adds::kOnHost), std::pair(true, Adds::kInCaller),
        std::pair(false, Adds::kInStream), std::pair(false, Adds::kOnHost)}) {
    const int64_t before = aborts();
    take_queries();
    std::atomic<int> ready = 0;
    std::atomic<bool> broken = false;
    const int64_t begin_ns = system_clock().monotonic_ns();
    const auto errors = errors_of(
        3,
        [&, hang = hangs](Communicator& c) {
          all_reduce(c, 10, "first");
          if (++ready == 3) {
            stall(true);
            if (!hang) fail(6);
            broken = true;
          }
          while (!broken) std::this_thread::yield();
          all_reduce(c, 10, "second", hang ? 300 : 0);
        },
        20'000, adds);
    stall(false);
    fail(0);
    EXPECT_LT(system_clock().monotonic_ns() - begin_ns, 10'000'000'000);
    for (const std::string& error : errors) {
      EXPECT_THAT(error, HasSubstr(hangs ? "deadline_exceeded" : "unavailable"));
      EXPECT_THAT(error,
                  HasSubstr(hangs ? "NCCL waits for the ranks of group world" : "remote process exited"));
      EXPECT_THAT(error, HasSubstr("'second' #1"));
    }
    EXPECT_EQ(aborts() - before, 3);
    EXPECT_EQ(live(), 0);
    // Of each rank: 2048 at once, then one every 20 us of the 300 ms.
    EXPECT_LT(take_queries(), 3 * (2 * 2048 + 300'000 / 20)) << "a long wait rests";
  }
}

// One that blocks leaves a thread behind, which ends it when it comes to be after all; one that is polled
// nothing.
TEST_P(Nccl, ACommunicatorThatDoesNotComeToBeIsGivenUp) {
  if (kReal) GTEST_SKIP() << "breaks the fake";
  const auto aborts = fake<int64_t (*)()>("fake_nccl_aborts"), live = fake<int64_t (*)()>("fake_nccl_live");
  const auto births = fake<int64_t (*)()>("fake_nccl_births");
  const auto stall = fake<void (*)(bool)>("fake_nccl_stall");
  const int64_t before = aborts();
  stall(true);
  const auto errors = errors_of(2, [](Communicator& c) { all_reduce(c, 10, "first"); }, 1000);
  for (const std::string& error : errors) EXPECT_THAT(error, HasSubstr("the ranks of a new communicator"));
  while (blocking() && births() < 2) std::this_thread::yield();
  EXPECT_EQ(births(), blocking() ? 2 : 0);
  EXPECT_EQ(aborts(), before + (blocking() ? 0 : 2));
  stall(false);
  while (aborts() < before + 2) std::this_thread::yield();
  EXPECT_EQ(live(), 0);
}

TEST_P(Nccl, ACommunicatorThatCannotBeMadeSaysWhy) {
  if (kReal) GTEST_SKIP() << "breaks the fake";
  const auto fail = fake<void (*)(int)>("fake_nccl_fail");
  const auto stall = fake<void (*)(bool)>("fake_nccl_stall");
  const auto births = fake<int64_t (*)()>("fake_nccl_births");
  stall(true);
  std::thread breaks([&] {  // once both are inside: one that came later would be born, and wait for the other
    while (births() < 2) std::this_thread::yield();
    fail(6);
    stall(false);
  });
  const auto errors = errors_of(2, [](Communicator& c) { all_reduce(c, 10, "first"); }, 20'000);
  breaks.join();
  while (births() > 0) std::this_thread::yield();
  fail(0);
  for (const std::string& error : errors)
    EXPECT_THAT(error, HasSubstr(blocking() ? "ncclCommInitRank: remote process exited"
                                            : "ncclCommInitRankConfig: remote process exited"));
}

TEST_P(Nccl, NothingIsLeftOpen) {
  if (kReal) GTEST_SKIP() << "counts of the fake";
  run_ranks(2, [](Communicator& communicator) {
    all_reduce(communicator, 10, "x");
    const DeviceBuffer data(Bytes(400));
    Group beside = communicator.group({0, 1}, {.name = "beside", .independent = true});
    beside.run({.kind = CollectiveKind::kAllReduce, .in = data.bytes(), .out = data.bytes()});
  });
  EXPECT_EQ(fake<int64_t (*)()>("fake_nccl_live")(), 0);
  EXPECT_EQ(fake<int64_t (*)()>("fake_nccl_lonely_ends")(), 0);
}

INSTANTIATE_TEST_SUITE_P(Calls, Nccl, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "block" : "are_polled"); });

// What lacks ncclAvg and ncclBfloat16 is told by its version, which is written otherwise before 2.9.
TEST(NcclRules, AnOlderLibraryIsRefusedByItsVersion) {
  if (kReal) GTEST_SKIP() << "of the library that stands in";
  library();
  const auto say = fake<void (*)(int)>("fake_nccl_say_version");
  for (const auto& [code, version] :
       {std::pair(2708, "2.7.8"), std::pair(2804, "2.8.4"), std::pair(20908, "2.9.8")}) {
    say(code);
    try {
      open_nccl_library();
      ADD_FAILURE() << version << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
      EXPECT_THAT(error.message(),
                  HasSubstr(fmt::format("needs NCCL 2.10.0 or later, but this one is {}", version)));
    }
  }
  for (const int code : {21003, 21304, 21400, 22703}) {
    say(code);
    EXPECT_EQ(open_nccl_library().nccl.comm_init_rank_config != nullptr, code >= 21400) << code;
  }
}

TEST(NcclRules, WhatNcclMayAdd) {
  const Collective sum{.kind = CollectiveKind::kAllReduce, .dtype = DType::kF32};
  EXPECT_TRUE(nccl_adds(sum, true, 2));
  EXPECT_FALSE(nccl_adds(sum, true, 3));
  EXPECT_TRUE(nccl_adds(sum, false, 3));
}

}  // namespace
}  // namespace furrow::comm
