// What the algorithms of several hosts send between them.  (Their results: conformance_test.cc.)
#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "furrow/comm/algorithm.h"
#include "furrow/comm/communicator.h"
#include "tests/testing/messages_only.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

// Counts what is sent to each peer.
class CountsByPeer : public testing::MessagesOnly {
 public:
  using testing::MessagesOnly::MessagesOnly;
  Ticket post_send(int peer, const Envelope& e, std::span<const std::byte> bytes) override {
    sent[peer] += static_cast<int64_t>(bytes.size());
    return MessagesOnly::post_send(peer, e, bytes);
  }
  std::map<int, int64_t> sent;
};

// Three hosts of two ranks, 16 KiB a rank.  Between hosts: each rank to (or from) its counterparts only.
TEST(Hierarchical, CrossesBetweenHostsAsLittleAsItCan) {
  constexpr int64_t kSlice = 16 << 10, kRanks = 6, kHosts = 3;
  const std::vector<int> host = {0, 0, 1, 1, 2, 2};
  const auto crossing = [&](CollectiveKind kind, const std::string& algorithm) {
    std::atomic<int64_t> bytes = 0;
    thread_local CountsByPeer* mine = nullptr;  // of the rank whose thread this is
    testing::RankOptions options;
    options.host = host;
    options.communicator.algorithm = algorithm;
    options.wrap = [](std::unique_ptr<Transport> t) {
      auto counts = std::make_unique<CountsByPeer>(std::move(t));
      mine = counts.get();
      return counts;
    };
    testing::run_ranks_with(kRanks, options, [&](Communicator& communicator) {
      std::vector<float> slice(kSlice / 4, 1), all(kRanks * kSlice / 4, 1);
      Collective c{.kind = kind, .in = std::as_bytes(std::span(all)), .label = "x"};
      c.out = std::as_writable_bytes(std::span(slice));
      if (kind == CollectiveKind::kAllGather) {
        c.in = std::as_bytes(std::span(slice));
        c.out = std::as_writable_bytes(std::span(all));
      }
      communicator.group(communicator.world().members(), {.canonical = false}).run(c);
      const LedgerRow row = communicator.ledger().rows().at(0);
      EXPECT_EQ(row.wire_bytes, row.bound_bytes) << algorithm;
      for (const auto& [peer, sent] : mine->sent) {
        if (host[static_cast<size_t>(peer)] != host[static_cast<size_t>(communicator.rank())]) bytes += sent;
      }
    });
    return bytes.load();
  };
  for (const CollectiveKind kind : {CollectiveKind::kReduceScatter, CollectiveKind::kAllGather}) {
    EXPECT_EQ(crossing(kind, "direct"), kRanks * (kRanks - 2) * kSlice);
    EXPECT_EQ(crossing(kind, "hierarchical"), kRanks * (kHosts - 1) * kSlice);
    EXPECT_EQ(crossing(kind, "hierarchical_ring"), kRanks * (kHosts - 1) * kSlice);
  }
}

}  // namespace
}  // namespace furrow::comm
