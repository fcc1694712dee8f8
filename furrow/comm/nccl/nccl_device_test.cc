// What a rank does on its device beside NCCL, over the libraries that stand in: who adds there and in which
// order, contexts, streams, ends.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/conformance_reference.h"
#include "furrow/comm/nccl/test_support.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using reference::Bytes;
using ::testing::HasSubstr;

constexpr CommunicatorOptions options() { return {.timeout_ms = 60'000, .backend = "nccl"}; }

Collective all_reduce(const DeviceBuffer& data, int64_t timeout_ms = 0) {
  return {.kind = CollectiveKind::kAllReduce,
          .in = data.bytes(),
          .out = data.bytes(),
          .label = "sum",
          .timeout_ms = timeout_ms};
}

// Floats of which each is one of this rank alone.
Bytes numbers(int rank, size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i)
    values[i] = 1.0F / static_cast<float>(1 + (i + 17 * static_cast<size_t>(rank)) % 1009);
  Bytes bytes(4 * n);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Bytes sum_of(int ranks, size_t n) {
  std::vector<Bytes> all;
  std::vector<const std::byte*> sources;
  for (int r = 0; r < ranks; ++r) all.push_back(numbers(r, n));
  for (const Bytes& one : all) sources.push_back(one.data());
  Bytes sum(4 * n);
  std::byte* const to[] = {sum.data()};
  reduce_tree({.ranks = ranks}, static_cast<int64_t>(n), sources, to);
  return sum;
}

// Passes everything on.
class Passing : public DeviceReducer {
 public:
  explicit Passing(std::unique_ptr<DeviceReducer> inner) : inner_(std::move(inner)) {}
  std::byte* staging(size_t bytes) override { return inner_->staging(bytes); }
  bool has_stream() const override { return inner_->has_stream(); }
  void wait_for(void* event) override { inner_->wait_for(event); }
  void record(void* event) override { inner_->record(event); }
  void drain() noexcept override { inner_->drain(); }
  void combine(const ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b,
               std::byte* out) override {
    inner_->combine(kind, n, a, b, out);
  }
  void finish(const ReduceKind& kind, int64_t n, std::byte* data) override { inner_->finish(kind, n, data); }

 private:
  std::unique_ptr<DeviceReducer> inner_;
};

// Notes what is staged.
class Staging : public Passing {
 public:
  Staging(std::unique_ptr<DeviceReducer> inner, std::vector<size_t>* staged)
      : Passing(std::move(inner)), staged_(*staged) {}
  std::byte* staging(size_t bytes) override {
    staged_.push_back(bytes);
    return Passing::staging(bytes);
  }

 private:
  std::vector<size_t>& staged_;
};

class NcclDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    library();
    take_calls();
    take_host_copies();
  }
};

// More than is staged at a time (as plan/workspace.cc plans it): the next piece is received where the one
// before has been added.
TEST_F(NcclDevice, AddsInPieces) {
  constexpr int kRanks = 3;
  constexpr size_t kElements = (size_t{9} << 20) + 5;  // 36 MiB
  const Bytes expected = sum_of(kRanks, kElements);
  testing::run_ranks(
      kRanks,
      [&](Communicator& c) {
        std::vector<size_t> staged;
        RankDevice device = device_that_adds(c.rank(), Adds::kInStream);
        device.make_reducer = [make = device.make_reducer, &staged] {
          return std::make_unique<Staging>(make(), &staged);
        };
        c.use_device(device);
        const DeviceBuffer whole(numbers(c.rank(), kElements));
        c.world().run(all_reduce(whole));
        EXPECT_TRUE(whole.content() == expected);
        std::vector<int64_t> counts(kRanks, 100);
        counts[1] = static_cast<int64_t>(kElements) - 200;
        const DeviceBuffer in(numbers(c.rank(), kElements));
        const size_t begin = c.rank() == 0 ? 0 : c.rank() == 1 ? 400 : 4 * kElements - 400;
        const auto own = static_cast<size_t>(4 * counts[static_cast<size_t>(c.rank())]);
        const DeviceBuffer out{Bytes(own)};
        c.world().run({.kind = CollectiveKind::kReduceScatter,
                       .in = in.bytes(),
                       .out = out.bytes(),
                       .counts = counts,
                       .label = "slices"});
        EXPECT_TRUE(std::ranges::equal(out.content(), std::span(expected).subspan(begin, own)));
        EXPECT_TRUE(in.content() == numbers(c.rank(), kElements)) << "what was given stays";
        const size_t piece = (size_t{32} << 20) / 4 / kRanks, all = (kRanks - 1) * 4 * piece;
        EXPECT_TRUE(std::ranges::all_of(staged, [&](size_t bytes) { return bytes <= all + 8; }));
        if (c.rank() == 1) {
          EXPECT_THAT(staged, ::testing::Contains(::testing::Ge(all)));
        }
      },
      options());
  EXPECT_EQ(take_host_copies(), 0);
}

// What a caller has put on its device's default stream comes first, from whatever thread it asks.
TEST_F(NcclDevice, FollowsTheDefaultStreamOfItsDevice) {
  constexpr size_t kElements = 300;
  const Bytes expected = sum_of(3, kElements);
  testing::run_ranks(
      3,
      [&](Communicator& c) {
        const int device = c.rank() + 2;
        c.use_device(device_that_adds(device, Adds::kInStream));
        library().cuda.set_device(device);
        const DeviceBuffer data{Bytes(4 * kElements)};
        struct Late {
          Bytes bytes;
          void* to;
        } late{numbers(c.rank(), kElements), data.bytes().data()};
        put_on_default_stream(
            [](void* argument) {
              const int64_t until_ns = system_clock().monotonic_ns() + 1'000'000;
              while (system_clock().monotonic_ns() < until_ns) continue;
              const Late& what = *static_cast<const Late*>(argument);
              std::memcpy(fake<void* (*)(void*)>("fake_cuda_see")(what.to), what.bytes.data(),
                          what.bytes.size());
            },
            &late);
        std::thread([&] { c.world().run(all_reduce(data)); }).join();  // its current device is the first
        EXPECT_TRUE(data.content() == expected);
      },
      options());
}

TEST_F(NcclDevice, MakesContextsOnItsOwnAlone) {
  const auto contexts = fake<int64_t (*)()>("fake_cuda_take_contexts");
  contexts();
  std::atomic<int> before = 0;
  testing::run_ranks(
      2,
      [&](Communicator& c) {
        std::vector<float> host(10, 1);
        c.world().all_reduce(std::span(host));
        if (++before == 2) {
          EXPECT_EQ(contexts(), 0) << "memory of the host asks nobody";
        }
        while (before < 2) std::this_thread::yield();
        c.world().barrier();
        c.use_device(device_that_adds(c.rank() + 1, Adds::kInStream));
        c.world().all_reduce(std::span(host));
        std::thread([&] { c.world().start({.kind = CollectiveKind::kBarrier}).wait(); }).join();
        std::thread([&] {
          c.world()
              .start({.kind = CollectiveKind::kAllReduce,
                      .in = std::as_bytes(std::span(host)),
                      .out = std::as_writable_bytes(std::span(host))})
              .wait();
        }).join();
        EXPECT_EQ(host[0], 8);
      },
      options());
  EXPECT_EQ(contexts() & ~int64_t{0b110}, 0) << "the first device is no rank's";
}

TEST_F(NcclDevice, ARankHasOne) {
  testing::run_ranks(
      1,
      [](Communicator& c) {
        EXPECT_EQ(c.device(), nullptr);
        c.use_device({.index = 1});
        c.use_device(device_that_adds(1, Adds::kInStream));
        EXPECT_TRUE(c.device()->make_reducer != nullptr);
        EXPECT_THAT([&] { c.use_device({.index = 2}); },
                    ::testing::ThrowsMessage<Error>(HasSubstr("a rank has one device: 2 is another than 1")));
      },
      options());
}

TEST_F(NcclDevice, SaysWhoAdds) {
  testing::run_ranks(
      3,
      [](Communicator& c) {
        library().cuda.set_device(c.rank());
        const DeviceBuffer data{Bytes(400)};
        Group any = c.group({0, 1, 2}, {.canonical = false});
        c.use_device(device_that_adds(c.rank(), Adds::kOnHost));
        EXPECT_EQ(c.would_run(all_reduce(data), c.world()), "direct over NCCL, added on the host");
        c.use_device(device_that_adds(c.rank(), Adds::kInStream));
        EXPECT_EQ(c.would_run(all_reduce(data), c.world()), "direct over NCCL, added on the device");
        EXPECT_EQ(c.would_run(all_reduce(data), any), "NCCL");
      },
      options());
}

// The device refuses what follows the last addition.
class Refusing : public Passing {
 public:
  using Passing::Passing;
  void finish(const ReduceKind&, int64_t, std::byte*) override {
    throw Error(ErrorCode::kResourceExhausted, "no memory on the device");
  }
};

// An error in between: when it is told nothing is added any more.
TEST_F(NcclDevice, AnErrorWaitsForWhatIsUnderWay) {
  std::array<std::string, 3> errors;
  testing::run_ranks(
      3,
      [&](Communicator& c) {
        RankDevice device = device_that_adds(c.rank(), Adds::kInStream);
        device.make_reducer = [make = device.make_reducer] { return std::make_unique<Refusing>(make()); };
        c.use_device(device);
        library().cuda.set_device(c.rank());
        const DeviceBuffer data(numbers(c.rank(), 3000));
        try {
          c.world().run(all_reduce(data));
        } catch (const Error& error) {
          errors[static_cast<size_t>(c.rank())] = error.what();
        }
        const Bytes after = data.content();
        while (pending_additions() > 0) std::this_thread::yield();
        EXPECT_TRUE(data.content() == after);
      },
      options());
  for (const std::string& error : errors) EXPECT_THAT(error, HasSubstr("no memory on the device"));
}

}  // namespace
}  // namespace furrow::comm
