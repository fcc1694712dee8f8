// Independent groups: their operations pass those of other groups, in both directions, over every transport.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <latch>
#include <numeric>
#include <random>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/comm/group.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using ::furrow::testing::run_ranks_with;
using ::testing::HasSubstr;

// One direction between two ranks.
Group lane(Communicator& communicator, int from, int to) {
  return communicator.group({from, to}, {.name = "lane", .independent = true});
}

Collective message(CollectiveKind kind, std::span<float> data, int64_t timeout_ms = 0) {
  Collective c;
  c.kind = kind;
  if (kind == CollectiveKind::kSend) c.in = std::as_bytes(data);
  if (kind == CollectiveKind::kRecv) c.out = std::as_writable_bytes(data);
  c.root_or_peer = kind == CollectiveKind::kSend ? 1 : 0;
  c.label = "act";
  c.timeout_ms = timeout_ms;
  return c;
}

class Independent : public ::testing::TestWithParam<const char*> {
 protected:
  void run(int n, const testing::RankFunction& fn) {
    run_ranks_with(n, {.transport = GetParam(), .communicator = {.timeout_ms = testing::kPatienceMs}}, fn);
  }
};

TEST_P(Independent, AReceiveThatWaitsHoldsNothingUp) {
  run(2, [](Communicator& communicator) {
    for (const size_t size : {size_t{1}, size_t{300'000}}) {
      const Group forth = lane(communicator, 0, 1);
      std::vector<float> data(size, static_cast<float>(communicator.rank()));
      Work work;
      if (communicator.rank() == 1) work = Group(forth).start(message(CollectiveKind::kRecv, data));
      // Large enough for the communicator's thread, and for the same wires.
      std::vector<float> sum(300'000, 1);
      for (int i = 0; i < 3; ++i) communicator.world().all_reduce(std::span(sum));
      EXPECT_EQ(sum[7], 8);
      if (communicator.rank() == 1) {
        EXPECT_FALSE(work.done());
      }
      communicator.world().barrier();
      if (communicator.rank() == 0) work = Group(forth).start(message(CollectiveKind::kSend, data));
      work.wait();
      EXPECT_EQ(data[size / 2], 0);
    }
  });
}

TEST_P(Independent, PassesACollectiveThatWaits) {
  std::latch looked(1);
  run(2, [&](Communicator& communicator) {
    std::vector<float> sum(300'000, 1), there(50'000, 1), back(50'000, 2);
    Group forth = lane(communicator, 0, 1),
          home = communicator.group({1, 0}, {.name = "home", .independent = true});
    if (communicator.rank() == 0) {
      Collective all;
      all.kind = CollectiveKind::kAllReduce;
      all.in = std::as_bytes(std::span(sum));
      all.out = std::as_writable_bytes(std::span(sum));
      Work waits = communicator.world().start(std::move(all));  // for rank 1, which comes to it later
      Work sent = forth.start(message(CollectiveKind::kSend, there));
      Work received = home.start(message(CollectiveKind::kRecv, back));
      received.wait();
      sent.wait();
      EXPECT_FALSE(waits.done());
      looked.count_down();
      waits.wait();
      EXPECT_EQ(back[49'999], 7);
      return;
    }
    Work received = forth.start(message(CollectiveKind::kRecv, there));
    received.wait();
    std::fill(back.begin(), back.end(), 7);
    Work sent = home.start(message(CollectiveKind::kSend, back));
    sent.wait();
    looked.wait();
    communicator.world().all_reduce(std::span(sum));
    EXPECT_EQ(there[0], 1);
  });
}

// Every pair of ranks in both directions, beside collectives of all, in an order of each rank's own.
TEST_P(Independent, ManyLanesBesideCollectives) {
  static constexpr int kRanks = 3, kMessages = 40;
  run(kRanks, [](Communicator& communicator) {
    struct Lane {
      int from, to;
      Group group;
    };
    std::vector<Lane> lanes;
    for (int from = 0; from < kRanks; ++from) {
      for (int to = 0; to < kRanks; ++to) {
        if (from == to || (from != communicator.rank() && to != communicator.rank())) continue;
        lanes.push_back({from, to, lane(communicator, from, to)});
      }
    }
    std::mt19937 rng(static_cast<unsigned>(communicator.rank()));
    std::vector<std::vector<float>> buffers;
    buffers.reserve(lanes.size() * kMessages);
    std::vector<Work> works;
    std::vector<int> next(lanes.size(), 0);
    const auto size_of = [](int from, int to, int i) {
      return static_cast<size_t>((from * 7 + to * 3 + i) % 5 * 9'000 + i % 3);
    };
    for (int left = static_cast<int>(lanes.size()) * kMessages; left > 0;) {
      const size_t l = rng() % lanes.size();
      if (next[l] == kMessages) continue;
      const Lane& lane = lanes[l];
      const int i = next[l]++;
      const bool sends = lane.from == communicator.rank();
      buffers.emplace_back(size_of(lane.from, lane.to, i), static_cast<float>(sends ? i + 1 : -1));
      works.push_back(
          Group(lane.group)
              .start(message(sends ? CollectiveKind::kSend : CollectiveKind::kRecv, buffers.back())));
      --left;
    }
    for (int i = 0; i < 10; ++i) {
      std::vector<float> sum(20'000, 1);
      communicator.world().all_reduce(std::span(sum));
      EXPECT_EQ(sum[0], kRanks);
    }
    for (Work& work : works) work.wait();
    for (size_t b = 0; b < buffers.size(); ++b) {
      for (const float value : buffers[b]) ASSERT_GT(value, 0) << b;
    }
  });
}

// Messages that are read out of their order free their slots all the same, however many there are.
TEST_P(Independent, LateMessagesBlockNoOthers) {
  run(2, [](Communicator& communicator) {
    Group late = lane(communicator, 0, 1), soon = lane(communicator, 0, 1);
    std::vector<float> first(500), second(500);
    for (int i = 0; i < 200; ++i) {
      const bool sends = communicator.rank() == 0;
      const auto kind = sends ? CollectiveKind::kSend : CollectiveKind::kRecv;
      std::ranges::fill(first, sends ? static_cast<float>(i) : -1.0F);
      std::ranges::fill(second, sends ? static_cast<float>(i) + 0.5F : -1.0F);
      Work later;
      if (sends) later = late.start(message(kind, first));
      soon.start(message(kind, second)).wait();
      if (!sends) later = late.start(message(kind, first));
      later.wait();
      EXPECT_EQ(first, std::vector<float>(500, static_cast<float>(i)));
      EXPECT_EQ(second, std::vector<float>(500, static_cast<float>(i) + 0.5F));
    }
  });
}

// More messages that nobody asks for yet than the wires have places.
TEST_P(Independent, UnreadMessagesBlockNoOthers) {
  static constexpr int kLanes = 20, kMessages = 5;
  run(2, [](Communicator& communicator) {
    for (const size_t size : {size_t{500}, size_t{20'000}}) {
      std::vector<Group> lanes;
      std::vector<std::vector<float>> buffers;
      for (int i = 0; i < kLanes; ++i) lanes.push_back(lane(communicator, 0, 1));
      for (int i = 0; i < kLanes * kMessages; ++i) buffers.emplace_back(size, static_cast<float>(i));
      std::vector<Work> works;
      const auto start_all = [&](CollectiveKind kind) {
        for (size_t i = 0; i < buffers.size(); ++i)
          works.push_back(lanes[i % kLanes].start(message(kind, buffers[i])));
      };
      if (communicator.rank() == 0) start_all(CollectiveKind::kSend);
      for (const size_t elements : {10, 100, 20'000, 10, 20'000}) {
        std::vector<float> sum(elements, 1);
        communicator.world().all_reduce(std::span(sum));
        EXPECT_EQ(sum[elements - 1], 2);
      }
      if (communicator.rank() == 1) {
        for (auto& buffer : buffers) std::fill(buffer.begin(), buffer.end(), -1.0F);
        start_all(CollectiveKind::kRecv);
      }
      for (Work& work : works) work.wait();
      for (size_t i = 0; i < buffers.size(); ++i)
        ASSERT_EQ(buffers[i], std::vector<float>(size, static_cast<float>(i)));
    }
  });
}

TEST_P(Independent, TheLedgerOfCollectivesLeavesThemOut) {
  run(2, [](Communicator& communicator) {
    constexpr size_t kSize = 100'000;
    std::vector<float> data(kSize, 1), sum(kSize, 1);
    Group forth = lane(communicator, 0, 1);
    communicator.world().barrier();
    communicator.ledger().clear();
    const auto kind = communicator.rank() == 0 ? CollectiveKind::kSend : CollectiveKind::kRecv;
    Work work = forth.start(message(kind, data));
    communicator.world().all_reduce(std::span(sum));
    work.wait();
    communicator.world().all_reduce(std::span(sum));
    bool seen = false;
    for (const LedgerRow& row : communicator.ledger().rows()) {
      if (row.kind == kind) {
        seen = true;
        EXPECT_EQ(row.group, "lane");
        const auto payload = static_cast<int64_t>(kSize * sizeof(float));
        EXPECT_GE(row.wire_bytes, payload);
        EXPECT_LE(row.wire_bytes, payload + payload / 100);  // frames, where there are any
      } else {
        EXPECT_LT(static_cast<double>(row.wire_bytes), 1.02 * static_cast<double>(row.bound_bytes) + 4096);
      }
    }
    EXPECT_TRUE(seen);
  });
}

// One of every kind over groups that are independent, all at once, beside a group that is not.
TEST_P(Independent, EveryGroupCountsWhatItMoved) {
  for (const int n : {2, 3, 4}) {
    run(n, [n](Communicator& communicator) {
      const size_t part = 24'000, size = part * static_cast<size_t>(n);
      std::vector<int> members(static_cast<size_t>(n));
      std::iota(members.begin(), members.end(), 0);
      struct Job {
        Group group;
        std::vector<float> small, large;
      };
      std::vector<Job> jobs;
      for (const char* name : {"a", "b", "c"}) {
        jobs.push_back({communicator.group(members, {.name = name, .independent = true}),
                        std::vector<float>(part, 1), std::vector<float>(size, 1)});
      }
      std::vector<float> sum(size, 1);
      communicator.world().barrier();
      communicator.ledger().clear();
      std::vector<Work> works;
      for (const auto kind :
           {CollectiveKind::kAllGather, CollectiveKind::kReduceScatter, CollectiveKind::kAllReduce}) {
        for (Job& job : jobs) {
          const bool gathers = kind == CollectiveKind::kAllGather,
                     scatters = kind == CollectiveKind::kReduceScatter;
          Collective c;
          c.kind = kind;
          c.in = std::as_bytes(std::span(gathers ? job.small : job.large));
          c.out = std::as_writable_bytes(std::span(scatters ? job.small : job.large));
          works.push_back(job.group.start(std::move(c)));
        }
        communicator.world().all_reduce(std::span(sum));
      }
      for (Work& work : works) work.wait();
      const std::vector<LedgerRow> rows = communicator.ledger().rows();
      EXPECT_EQ(rows.size(), 3 * jobs.size() + 1);
      for (const LedgerRow& row : rows) {
        const double over = static_cast<double>(row.wire_bytes) / static_cast<double>(row.bound_bytes);
        EXPECT_NEAR(over, 1.0, 0.01) << n << " " << row.group << " " << to_string(row.kind);
      }
    });
  }
}

TEST_P(Independent, ADeadlineEndsEverybody) {
  EXPECT_THAT(
      [&] {
        try {
          run(2, [](Communicator& communicator) {
            std::vector<float> data(10, 1);
            Group forth = lane(communicator, 0, 1);
            if (communicator.rank() == 1) {
              Work work = forth.start(message(CollectiveKind::kRecv, data, 50));
              return work.wait();
            }
            communicator.world().barrier();  // its end comes from the other rank
          });
        } catch (const Error& error) {
          return std::string(error.what());
        }
        return std::string("no error");
      }(),
      HasSubstr("rank 1: send 'act' #0 of 10 float32 in group lane on rank 1"));
}

// ---- lanes of shared memory, without the groups above them ----

class Lanes : public Independent {
 protected:
  static Envelope envelope(uint64_t channel, uint32_t step) {
    Envelope e;
    e.channel = channel;
    e.step = step;
    return e;
  }
  static int64_t soon_ns() { return system_clock().monotonic_ns() + testing::kPatienceMs * 1'000'000; }
};

// While one is open, others pass that it is waited for before it is closed.
TEST_P(Lanes, AnOpenMessageBlocksNoOthers) {
  for (const size_t size : {size_t{100}, size_t{5'000}}) {
    run(2, [&](Communicator& communicator) {
      Transport& wire = communicator.route(1 - communicator.rank());
      PeerMemory& memory = *wire.peer_memory();
      const Memory shared = communicator.allocate(size);
      const std::span<std::byte> bytes = shared.bytes();
      if (communicator.rank() == 0) {
        std::fill(bytes.begin(), bytes.end(), std::byte{7});
        const Ticket first = wire.post_send(1, envelope(2, 0), bytes);
        for (uint32_t i = 0; i < 40; ++i) wire.wait(wire.post_send(1, envelope(4, i), bytes), soon_ns());
        wire.wait(memory.post_expose(1, envelope(2, 1), bytes), soon_ns());
        EXPECT_EQ(bytes[size - 1], std::byte{9});
        return wire.wait(first, soon_ns());
      }
      const Window first = memory.open(0, envelope(2, 0), size, soon_ns());
      for (uint32_t i = 0; i < 40; ++i) wire.wait(wire.post_recv(0, envelope(4, i), bytes), soon_ns());
      EXPECT_EQ(bytes[size - 1], std::byte{7});
      const Window second = memory.open(0, envelope(2, 1), size, soon_ns());
      EXPECT_EQ(first.bytes[size - 1], std::byte{7});
      second.bytes[size - 1] = std::byte{9};
      memory.close(second);
      memory.close(first);
    });
  }
}

// More at a time than there are ends to tell that they were read.
TEST_P(Lanes, ManyLargeMessagesAtATime) {
  static constexpr uint32_t kMessages = 600;
  static constexpr size_t kSize = 5'000;
  run(2, [&](Communicator& communicator) {
    Transport& wire = communicator.route(1 - communicator.rank());
    std::vector<std::vector<uint32_t>> data;
    std::vector<Ticket> tickets;
    for (uint32_t i = 0; i < kMessages; ++i) {
      data.emplace_back(kSize / 4, i + 1);
      const auto bytes = std::as_writable_bytes(std::span(data.back()));
      if (communicator.rank() == 0) {
        tickets.push_back(wire.post_send(1, envelope(2, i), bytes));
      } else {
        data.back().assign(kSize / 4, 0);
        wire.wait(wire.post_recv(0, envelope(2, i), bytes), soon_ns());
        ASSERT_EQ(data.back(), std::vector<uint32_t>(kSize / 4, i + 1));
      }
    }
    for (const Ticket& ticket : tickets) wire.wait(ticket, soon_ns());
  });
}

INSTANTIATE_TEST_SUITE_P(OnMemory, Lanes, ::testing::Values("inproc", "shm"),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Transports, Independent, ::testing::Values("inproc", "shm", "tcp"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace furrow::comm
