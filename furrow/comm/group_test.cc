#include "furrow/comm/group.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <numeric>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/memory.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/call.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using ::furrow::testing::run_ranks;
using ::furrow::testing::run_ranks_with;
using ::testing::AllOf;
using ::testing::HasSubstr;

// What run_ranks throws.
std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

class OnMemory : public ::testing::TestWithParam<const char*> {
 protected:
  void run(int n, const testing::RankFunction& fn, CommunicatorOptions options = {}) {
    run_ranks_with(n, {.transport = GetParam(), .communicator = std::move(options)}, fn);
  }
};

TEST_P(OnMemory, LargeBuffersGoThroughInPieces) {
  for (const int n : {2, 3}) {
    run(n, [&](Communicator& communicator) {
      const size_t size = 4'300'001;
      std::vector<float> plain(size, static_cast<float>(communicator.rank() + 1));
      communicator.world().all_reduce(std::span(plain));
      Memory memory = communicator.allocate(size * sizeof(float));
      const std::span<float> seen = memory.as<float>();
      std::fill(seen.begin(), seen.end(), static_cast<float>(communicator.rank() + 1));
      communicator.world().all_reduce(seen);
      const auto sum = static_cast<float>(n * (n + 1) / 2);
      EXPECT_EQ(std::count(plain.begin(), plain.end(), sum), static_cast<std::ptrdiff_t>(size));
      EXPECT_EQ(std::count(seen.begin(), seen.end(), sum), static_cast<std::ptrdiff_t>(size));
    });
  }
}

// Larger than a piece of what is staged, and cut alike by ranks whose memory is seen and by others.
TEST_P(OnMemory, RanksMayDifferInWhetherPeersSeeTheirMemory) {
  constexpr size_t kElements = (17 << 20) / sizeof(float) + 3;
  run(3, [](Communicator& communicator) {
    const Memory seen_in = communicator.allocate(kElements * sizeof(float)),
                 seen_out = communicator.allocate(kElements * sizeof(float));
    std::vector<float> plain_in(kElements), plain_out(kElements);
    for (const bool in_place : {false, true}) {
      const bool in_seen = communicator.rank() == 0 || communicator.rank() == 2,
                 out_seen = communicator.rank() == 0;
      const std::span<float> in = in_seen ? seen_in.as<float>() : std::span(plain_in);
      std::span<float> out = out_seen ? seen_out.as<float>() : std::span(plain_out);
      if (in_place) out = in;
      for (size_t i = 0; i < kElements; ++i)
        in[i] = static_cast<float>(i % 1000) + static_cast<float>(communicator.rank()) / 4;
      communicator.world().run({.kind = CollectiveKind::kAllReduce,
                                .dtype = DType::kF32,
                                .in = std::as_bytes(in),
                                .out = std::as_writable_bytes(out)});
      size_t wrong = 0;
      for (size_t i = 0; i < kElements; ++i)
        wrong += out[i] != 3 * static_cast<float>(i % 1000) + 0.75F ? 1 : 0;
      EXPECT_EQ(wrong, 0U) << "rank " << communicator.rank() << ", in place " << in_place;
    }
  });
}

TEST_P(OnMemory, WorkRunsInOrderBesideTheCaller) {
  run(2, [](Communicator& communicator) {
    Group world = communicator.world();
    std::vector<std::vector<double>> data(20, std::vector<double>(10'000, 1.0));
    std::vector<Work> works;
    for (auto& x : data) {
      const auto bytes = std::as_writable_bytes(std::span(x));
      works.push_back(
          world.start({.kind = CollectiveKind::kAllReduce, .dtype = DType::kF64, .in = bytes, .out = bytes}));
    }
    works.back().wait();
    for (size_t i = 0; i < works.size(); ++i) {
      EXPECT_TRUE(works[i].done());
      EXPECT_GE(works[i].finished_ns(), works[i].started_ns());
      EXPECT_GE(works[i].started_ns(), i > 0 ? works[i - 1].finished_ns() : 1);
      EXPECT_EQ(data[i].back(), 2.0);
    }
  });
}

TEST_P(OnMemory, GroupsOfAnyRanksAtTheSameTime) {
  run(5, [](Communicator& communicator) {
    const std::vector<int> odd = {3, 1}, even = {4, 0, 2};
    Group group = communicator.group(communicator.rank() % 2 == 1 ? odd : even, {.name = "parity"});
    std::vector<int32_t> ranks(static_cast<size_t>(group.size()));
    const int32_t own = communicator.rank();
    group.all_gather(std::span<const int32_t>(&own, 1), std::span(ranks));
    EXPECT_EQ(ranks, group.members());
    communicator.world().barrier();
  });
}

TEST_P(OnMemory, ManyMessagesOfOnePairStayInOrder) {
  run(2, [](Communicator& communicator) {
    constexpr int kMessages = 50;  // more than a lane has slots
    std::vector<int32_t> out(kMessages), in(kMessages);
    std::iota(out.begin(), out.end(), 100 * communicator.rank());
    std::vector<Collective> batch;
    for (int i = 0; i < kMessages; ++i) {
      batch.push_back({.kind = CollectiveKind::kSend,
                       .dtype = DType::kI32,
                       .in = std::as_bytes(std::span(out)).subspan(4 * static_cast<size_t>(i), 4),
                       .root_or_peer = 1 - communicator.rank()});
    }
    for (int i = 0; i < kMessages; ++i) {
      batch.push_back({.kind = CollectiveKind::kRecv,
                       .dtype = DType::kI32,
                       .out = std::as_writable_bytes(std::span(in)).subspan(4 * static_cast<size_t>(i), 4),
                       .root_or_peer = 1 - communicator.rank()});
    }
    communicator.world().start(std::move(batch)).wait();
    EXPECT_EQ(in.front(), 100 * (1 - communicator.rank()));
    EXPECT_EQ(in.back(), 100 * (1 - communicator.rank()) + kMessages - 1);
  });
}

// ---- bytes ----

// A megabyte in shares of equal size.
void expect_bytes_at_the_bound(Communicator& communicator) {
  Group world = communicator.world();
  const auto ranks = static_cast<size_t>(world.size());
  const int n = world.size();
  const size_t each = (1 << 20) / 4 / ranks / 16 * 16 + 16;
  std::vector<float> all(each * ranks, 1.0F), own(each, 1.0F);
  world.all_reduce(std::span(all), Reduction::kSum, "reduce");
  world.reduce_scatter(std::span<const float>(all), std::span(own), Reduction::kSum, {}, "scatter");
  world.all_gather(std::span<const float>(own), std::span(all), {}, "gather");
  for (const LedgerRow& row : communicator.ledger().rows()) {
    EXPECT_EQ(row.calls, 1);
    EXPECT_EQ(row.payload_bytes, static_cast<int64_t>(all.size() * 4));
    const auto factor = static_cast<double>(row.kind == CollectiveKind::kAllReduce ? 2 * (n - 1) : n - 1) / n;
    EXPECT_LE(static_cast<double>(row.wire_bytes), 1.01 * factor * static_cast<double>(row.payload_bytes))
        << row.label << " of " << n;
    EXPECT_GE(row.wire_bytes, row.bound_bytes) << row.label << " of " << n;
  }
  EXPECT_EQ(communicator.ledger().rows().size(), 3U);
}

TEST_P(OnMemory, MovesNoByteMoreThanTheBound) {
  for (int n = 2; n <= 8; ++n) run(n, &expect_bytes_at_the_bound);
}

// Frames and checksums included.
TEST(OverTcp, MovesNoByteMoreThanTheBound) {
  for (int n = 2; n <= 8; ++n) {
    run_ranks_with(n, {.transport = "tcp", .communicator = {.timeout_ms = testing::kPatienceMs}},
                   &expect_bytes_at_the_bound);
  }
}

TEST_P(OnMemory, AWholeBufferToEverybodyIsSeenInTheLedger) {  // the bound test can fail
  run(4,
      [](Communicator& communicator) {
        std::vector<float> all(1 << 18, 1.0F);
        communicator.world().all_reduce(std::span(all));
        const LedgerRow row = communicator.ledger().rows().at(0);
        EXPECT_EQ(row.wire_bytes, 2 * row.bound_bytes);
      },
      {.algorithm = "flat"});
}

// ---- errors ----

TEST_P(OnMemory, AMismatchNamesBothRanksOnEveryRank) {
  std::atomic<int> named{0};
  const std::string text = error_of([&] {
    run(3, [&](Communicator& communicator) {
      std::vector<float> x(100);
      try {
        communicator.world().all_reduce(std::span(x),
                                        communicator.rank() == 2 ? Reduction::kMax : Reduction::kSum, "x");
      } catch (const Error& error) {
        named +=
            error.code() == ErrorCode::kFailedPrecondition &&
                    std::string(error.what()).find("rank 2 runs all_reduce 'x' #0 of 100 float32 (max)") !=
                        std::string::npos
                ? 1
                : 0;
        throw;
      }
    });
  });
  EXPECT_EQ(named, 3) << text;
}

TEST_P(OnMemory, AMismatchIsFoundWhereNobodySends) {
  const std::string text = error_of([&] {
    run(2, [](Communicator& communicator) {
      std::vector<float> x(10);
      communicator.world().broadcast(std::span(x), 1 - communicator.rank());
    });
  });
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0 runs broadcast #0 of 10 float32 with root 1"),
                          HasSubstr("rank 1 runs broadcast #0 of 10 float32 with root 0")));
}

TEST_P(OnMemory, OtherCountsAreAMismatch) {
  const std::string text = error_of([&] {
    run(2, [](Communicator& communicator) {
      std::vector<float> x(100 + static_cast<size_t>(communicator.rank()));
      communicator.world().all_reduce(std::span(x));
    });
  });
  EXPECT_THAT(text, AllOf(HasSubstr("of 100 float32"), HasSubstr("of 101 float32")));
}

TEST_P(OnMemory, ADeadlineNamesWhoDidNotCome) {
  std::latch over(1);
  const auto body = [&](Communicator& communicator) {
    communicator.world().barrier("first");
    if (communicator.rank() == 1) return over.wait();
    std::vector<float> x(100);
    const auto bytes = std::as_writable_bytes(std::span(x));
    const std::string text = error_of([&] {
      communicator.world().run({.kind = CollectiveKind::kAllReduce,
                                .in = bytes,
                                .out = bytes,
                                .label = "second",
                                .timeout_ms = 60});
    });
    over.count_down();
    EXPECT_THAT(text,
                AllOf(HasSubstr("all_reduce 'second' #1"), HasSubstr("in group world on rank 0"),
                      HasSubstr("rank 1 (host"), HasSubstr("did not answer in time"),
                      HasSubstr("in time; last progress: barrier 'first' #0 in group world, finished ")));
  };
  run(2, body);
}

TEST_P(OnMemory, ARankThatIsLateIsWaitedForUntilTheStartIsOver) {
  constexpr int64_t kTimeoutMs = 60;
  std::latch over(1);
  const auto body = [&](Communicator& communicator) {
    const bool late = communicator.rank() == 1;
    if (late) std::this_thread::sleep_for(std::chrono::milliseconds(5 * kTimeoutMs));
    communicator.world().barrier("late");
    communicator.end_start();
    if (late) return over.wait();
    const std::string text = error_of([&] { communicator.world().barrier("missing"); });
    over.count_down();
    EXPECT_THAT(text, AllOf(HasSubstr("barrier 'missing' #1"), HasSubstr("did not answer in time"),
                            HasSubstr("where it is only slow, raise comm.train_timeout_seconds")));
  };
  run(2, body, {.timeout_ms = kTimeoutMs, .start_timeout_ms = testing::kPatienceMs});
}

TEST_P(OnMemory, ADeadlineOfTheStartNamesItsKey) {
  std::latch over(1);
  const auto body = [&](Communicator& communicator) {
    if (communicator.rank() == 1) return over.wait();
    const std::string text = error_of([&] { communicator.world().barrier("missing"); });
    over.count_down();
    EXPECT_THAT(text, HasSubstr("where it is only slow, raise comm.init_timeout_seconds"));
    EXPECT_EQ(text.find("_timeout_seconds"), text.rfind("_timeout_seconds")) << "said once: " << text;
  };
  run(2, body, {.timeout_ms = testing::kPatienceMs, .start_timeout_ms = 60});
}

TEST_P(OnMemory, ARankThatThrowsEndsTheOthers) {
  const int64_t begin_ns = system_clock().monotonic_ns();
  const std::string text = error_of([&] {
    run(4, [](Communicator& communicator) {
      communicator.world().barrier();
      if (communicator.rank() == 2) throw Error(ErrorCode::kDataLoss, "the disk is gone");
      std::vector<float> x(100);
      communicator.world().all_reduce(std::span(x));
    });
  });
  EXPECT_EQ(text, "rank 2: the disk is gone");
  EXPECT_LT(system_clock().monotonic_ns() - begin_ns, 10'000'000'000);  // not at the deadline
}

TEST_P(OnMemory, ARankThatLeftIsNamed) {
  const std::string text = error_of([&] {
    run(2, [](Communicator& communicator) {
      communicator.world().barrier("common");
      if (communicator.rank() == 1) return;
      communicator.world().barrier("alone");
    });
  });
  EXPECT_THAT(text,
              AllOf(HasSubstr("barrier 'alone' #1"), HasSubstr("rank 1 (host"),
                    HasSubstr("has left; last progress: barrier 'common' #0 in group world, finished ")));
}

TEST_P(OnMemory, WorkAfterAnAbortThrowsTheReason) {
  const std::string text = error_of([&] {
    run(2, [](Communicator& communicator) {
      communicator.world().barrier();
      if (communicator.rank() == 0) communicator.abort(Error(ErrorCode::kCancelled, "stopped by hand"));
      for (int i = 0; i < 1000; ++i) communicator.world().barrier();
    });
  });
  EXPECT_THAT(text, HasSubstr("stopped by hand"));
}

TEST_P(OnMemory, AnAbortFromOutsideAnyOperationNamesItsRank) {
  run(2, [](Communicator& communicator) {
    const std::string text = error_of([&] {
      communicator.world().barrier("common");
      if (communicator.rank() == 0) return;
      communicator.world().barrier("second");
    });
    if (communicator.rank() == 0)
      return communicator.abort(Error(ErrorCode::kDataLoss, "the shard is damaged"));
    EXPECT_THAT(text, HasSubstr("rank 0 (host "));
    EXPECT_THAT(text, HasSubstr("the shard is damaged; last progress: barrier 'common' #0 in group world, "));
  });
}

INSTANTIATE_TEST_SUITE_P(Transports, OnMemory, ::testing::Values("inproc", "shm"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Group, ArgumentsAreCheckedBeforeAnythingMoves) {
  run_ranks(2, [](Communicator& communicator) {
    Group world = communicator.world();
    std::vector<float> x(7), y(7);
    const auto in = std::as_bytes(std::span(x));
    const auto out = std::as_writable_bytes(std::span(y));
    const auto refused = [&](const Collective& c) { return error_of([&] { world.run(c); }); };
    EXPECT_THAT(refused({.kind = CollectiveKind::kReduceScatter, .in = in, .out = out}),
                HasSubstr("7 elements are no 2 equal slices"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kReduceScatter, .in = in, .out = out, .counts = {3, 3}}),
                HasSubstr("counts adds up to 6, the buffer has 7"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kAllReduce, .in = in.first(4), .out = out}),
                HasSubstr("they are as large"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kAllReduce,
                         .in = in.first(24),
                         .out = std::as_writable_bytes(std::span(x)).last(24)}),
                HasSubstr("overlap"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kAllReduce, .dtype = DType::kBool, .in = in, .out = out}),
                HasSubstr("bool cannot be reduced"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kAllReduce, .in = in.subspan(1, 4), .out = out.first(4)}),
                HasSubstr("no array of float32"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kBroadcast, .in = in, .out = out, .root_or_peer = 2}),
                HasSubstr("its root is 2"));
    EXPECT_THAT(refused({.kind = CollectiveKind::kSend, .in = in, .root_or_peer = communicator.rank()}),
                HasSubstr("this rank itself"));
    EXPECT_THAT(error_of([&] { communicator.group({0, 0}); }), HasSubstr("stands there twice"));
    EXPECT_THAT(error_of([&] { communicator.group({0, 1, 2}); }),
                HasSubstr("rank 2 is not one of the world's 2"));
    EXPECT_THAT(error_of([&] { communicator.group({1 - communicator.rank()}); }),
                HasSubstr("without being a member"));
    world.barrier();  // all of it left no trace
  });
}

TEST(Group, AWorldOfOneNeedsNobody) {
  run_ranks(1, [](Communicator& communicator) {
    std::vector<float> x = {1, 2, 3}, y(3);
    communicator.world().all_reduce(std::span(x), Reduction::kAvg);
    communicator.world().reduce(std::span<const float>(x), std::span(y), 0);
    communicator.world().barrier();
    EXPECT_EQ(y, (std::vector<float>{1, 2, 3}));
  });
}

TEST(Group, ProgressTellsTheOperation) {
  run_ranks(2, [](Communicator& communicator) {
    EXPECT_EQ(communicator.progress().operation, "");
    std::vector<float> x(3);
    communicator.world().all_reduce(std::span(x), Reduction::kSum, "loss");
    EXPECT_EQ(communicator.progress().operation, "all_reduce 'loss' #0 of 3 float32 (sum)");
    EXPECT_TRUE(communicator.progress().finished);
  });
}

TEST(Memory, IsCountedAndZeroed) {
  run_ranks_with(2, {.transport = "shm"}, [](Communicator& communicator) {
    const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
    communicator.world().barrier();
    {
      Memory memory = communicator.allocate(1000, MemoryKind::kData);
      EXPECT_GE(memory_usage(MemoryKind::kData).current_bytes, before + 1000);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 64, 0U);
      EXPECT_TRUE(std::all_of(memory.bytes().begin(), memory.bytes().end(),
                              [](std::byte b) { return b == std::byte{0}; }));
      std::fill(memory.bytes().begin(), memory.bytes().end(), std::byte{7});
      Memory moved = std::move(memory);
      EXPECT_EQ(moved.data()[999], std::byte{7});
    }
    communicator.world().barrier();
    EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes, before);
    Memory again = communicator.allocate(1000);
    EXPECT_EQ(again.data()[999], std::byte{0});
  });
}

// Between hosts, from the size on where bytes or messages count, what crosses is cut among a host's ranks; in
// a canonical group only where that keeps the order.
TEST(Tuning, MixedWiresAreHierarchicalFromASizeOn) {
  const std::string text = AlgorithmTable::built_in().to_text();
  for (const char* line : {"all_gather mixed 4 65536 direct\n", "all_gather mixed 4 * hierarchical\n",
                           "all_gather mixed * 2048 direct\n", "reduce_scatter mixed * * hierarchical\n",
                           "all_reduce mixed 4 16384 direct\n", "all_reduce mixed 4 * hierarchical\n",
                           "all_reduce mixed * 512 flat\nall_reduce mixed * * hierarchical\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(Tuning, ATableRoundTripsAndNamesABadLine) {
  const AlgorithmTable table = AlgorithmTable::built_in();
  EXPECT_EQ(AlgorithmTable::parse(table.to_text()).to_text(), table.to_text());
  EXPECT_THAT(error_of([] { AlgorithmTable::parse("furrow-comm-tuning 4\n"); }), HasSubstr("line 1"));
  EXPECT_THAT(error_of([] { AlgorithmTable::parse("furrow-comm-tuning 1\nall_reduce memory 2 * rnig\n"); }),
              AllOf(HasSubstr("line 2"), HasSubstr("ring")));
  EXPECT_THAT(error_of([] { AlgorithmTable::parse("furrow-comm-tuning 1\nall_reduce wifi 2 * ring\n"); }),
              HasSubstr("'wifi'"));
}

TEST(Tuning, ATableSaysWhereItWasMeasured) {
  AlgorithmTable table = AlgorithmTable::built_in();
  table.set_machine({"AMD EPYC 9454 48-Core", "node17"});
  const AlgorithmTable back = AlgorithmTable::parse(table.to_text());
  EXPECT_EQ(back.machine().processor, "AMD EPYC 9454 48-Core");
  EXPECT_EQ(back.machine().host, "node17");
  EXPECT_EQ(back.to_text(), table.to_text());
  EXPECT_TRUE(AlgorithmTable::built_in().machine().processor.empty());
}

AlgorithmTable tuned_over(Wires wires, const AlgorithmTable::Link& link) {
  AlgorithmTable table = AlgorithmTable::built_in();
  const int ring = algorithm_index("ring");
  table.set(CollectiveKind::kAllReduce, wires, 2, {{CollectiveKind::kAllReduce, wires, 2, INT64_MAX, ring}});
  table.set_link(wires, link);
  return AlgorithmTable::parse(table.to_text());
}

TEST(Tuning, ATableSaysOverWhatItWasMeasured) {
  const AlgorithmTable table = tuned_over(Wires::kMessages, {4, 2, 10'000, "eth0"});
  EXPECT_THAT(table.to_text(), HasSubstr("\nlink messages 4 2 10000 eth0\n"));
  EXPECT_THAT(tuned_over(Wires::kMixed, {2, 1, 0, ""}).to_text(), HasSubstr("\nlink mixed 2 1 - -\n"));
  EXPECT_EQ(AlgorithmTable::parse(table.to_text()).to_text(), table.to_text());
  for (const char* bad : {"link messages 4 2 10000", "link wifi 4 2 - -", "link messages 4 many - eth0"}) {
    EXPECT_THAT(error_of([&] { AlgorithmTable::parse(fmt::format("furrow-comm-tuning 3\n{}\n", bad)); }),
                HasSubstr("line 2"))
        << bad;
  }
  EXPECT_THAT(error_of([] { AlgorithmTable::parse("furrow-comm-tuning 2\nlink messages 4 2 - eth0\n"); }),
              HasSubstr("line 2"));
}

// Over another link the built-in choice counts again, and it is said why; over the same one nothing changes.
TEST(Tuning, WhatWasMeasuredOverAnotherLinkIsLeftOut) {
  using Link = AlgorithmTable::Link;
  struct Case {
    Wires wires;
    Link now;
    const char* says;  // "": it is kept
  };
  const Link eth0{4, 2, 10'000, "eth0"};
  const Case cases[] = {
      {Wires::kMessages, eth0, ""},
      {Wires::kMessages, {2, 2, 10'000, "eth0"}, ""},  // hosts are what the ranks of a line are for
      {Wires::kMessages, {4, 2, 10'000, "ib0"}, "and messages now take ib0 (10000 Mbit/s), 2 connections"},
      {Wires::kMessages, {4, 2, 1'000, "eth0"}, "measured over eth0 (10000 Mbit/s), 2 connections, and"},
      {Wires::kMixed, {4, 8, 10'000, "eth0"}, "mixed wires"},
      {Wires::kMessages, {4, 2, 10'000, "eth0", true}, "the link that comm.throttle emulates"},
      {Wires::kMessages, {1, 2, 0, "lo"}, ""},  // no group of this world has such wires
      {Wires::kLoopback, {1, 2, 0, "lo"}, ""},
      {Wires::kLoopback, {1, 4, 0, "lo"}, "loopback wires"},
      {Wires::kMemory, {4, 4, 0, "ib0"}, ""},
  };
  for (const Case& one : cases) {
    AlgorithmTable table = tuned_over(one.wires, eth0);
    const std::string before = table.to_text();
    const std::vector<std::string> left_out = table.leave_out_other_links(one.now);
    if (std::string_view(one.says).empty()) {
      EXPECT_THAT(left_out, ::testing::IsEmpty());
      EXPECT_EQ(table.to_text(), before);
    } else {
      EXPECT_THAT(left_out, ::testing::ElementsAre(HasSubstr(one.says)));
      EXPECT_EQ(table.to_text(), AlgorithmTable::built_in().to_text());
    }
  }
}

// Its `mixed` lines may have been measured on one host.
TEST(Tuning, AFileOfVersion1StillReads) {
  const AlgorithmTable table = AlgorithmTable::parse(
      "furrow-comm-tuning 1\nall_reduce mixed 2 * ring\nall_reduce memory 2 * direct\n");
  EXPECT_TRUE(table.machine().processor.empty());
  const std::string text = table.to_text();
  for (const char* line : {"all_reduce mixed 2 * ring\n", "all_reduce memory 2 * direct\n",
                           "all_reduce loopback 2 4096 flat\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

// Ranks of one host that talk over TCP are no hosts: what is measured there says nothing of networks.
TEST(Tuning, WiresOfOneHostAreMemoryOrLoopback) {
  const auto wires_of = [](const testing::RankOptions& options) {
    std::atomic<Wires> wires{Wires::kMemory};
    testing::run_ranks_with(2, options, [&](Communicator& communicator) {
      wires =
          topology_of(communicator, {.name = "all", .members = {0, 1}, .rank = communicator.rank()}).wires;
    });
    return wires.load();
  };
  EXPECT_EQ(wires_of({.transport = "inproc"}), Wires::kMemory);
  EXPECT_EQ(wires_of({.transport = "tcp"}), Wires::kLoopback);
  EXPECT_EQ(wires_of({.transport = "tcp", .host = {0, 1}}), Wires::kMessages);
}

}  // namespace
}  // namespace furrow::comm
