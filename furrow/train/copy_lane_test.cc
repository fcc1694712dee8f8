// Both lanes: the one of the CPU by its numbers, the one of devices with streams by what it asks of c10's
// interface, of a device that writes that down.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "furrow/base/memory.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/copy_lane_torch.h"
#include "tests/testing/written_device_torch.h"

namespace furrow::train {
namespace {

using ::testing::ElementsAre;
using testing::WrittenDevice;

at::Tensor numbers(float first) { return at::arange(first, first + 4, at::kFloat); }

TEST(LateLane, CopiesWhenSomebodyWaits) {
  const auto lane = make_copy_lane(at::kCPU, &system_clock());
  const at::Tensor from = numbers(1), to = at::zeros({4});
  comm::Work work = lane->start(to, from);
  EXPECT_FALSE(work.done());
  EXPECT_TRUE(to.equal(at::zeros({4}))) << "who does not wait sees what was there";
  from.add_(10);  // against the rules, and seen
  work.wait();
  EXPECT_TRUE(work.done());
  EXPECT_TRUE(to.equal(numbers(11)));
  EXPECT_GT(work.finished_ns(), 0);
  EXPECT_LE(work.started_ns(), work.finished_ns());
  from.add_(10);
  work.wait();
  EXPECT_TRUE(to.equal(numbers(11))) << "once";
}

// What goes up leaves a slot before the next comes down into it.
TEST(LateLane, KeepsTheOrderOfTheStarts) {
  const auto lane = make_copy_lane(at::kCPU, &system_clock());
  const at::Tensor slot = numbers(1), up = at::zeros({4}), down = numbers(5);
  comm::Work first = lane->start(up, slot), second = lane->start(slot, down);
  second.wait();
  EXPECT_TRUE(first.done());
  EXPECT_TRUE(up.equal(numbers(1)));
  EXPECT_TRUE(slot.equal(numbers(5)));
}

TEST(LateLane, NobodyNeedsToWait) {
  const auto lane = make_copy_lane(at::kCPU, &system_clock());
  lane->start(at::zeros({4}), numbers(1));
}

class StreamLane : public ::testing::Test {
 protected:
  WrittenDevice device;
};

// Behind what the default stream has been told so far, on a stream of its own, and nobody waits for it yet.
TEST_F(StreamLane, CopiesBesideTheDefaultStream) {
  const auto lane = make_copy_lane(WrittenDevice::device(), &system_clock());
  const at::Tensor to = at::zeros({4});
  comm::Work work = lane->start(to, numbers(1));
  EXPECT_TRUE(to.equal(numbers(1)));
  EXPECT_THAT(device.log, ElementsAre("record 0 on 0", "7 waits for 0", "on 7", "record 1 on 7",
                                      "record 2 on 7", "on 0"));
  EXPECT_FALSE(work.done());
  device.landed = 2;
  EXPECT_TRUE(work.done());
  device.log.clear();
  work.wait();
  EXPECT_THAT(device.log, ElementsAre("wait for 2"));
}

// Each is told behind what came before it, and its time is the device's, behind the copy before.
TEST_F(StreamLane, CopiesFollowOneAnother) {
  ManualClock clock;
  const auto lane = make_copy_lane(WrittenDevice::device(), &clock);
  const at::Tensor one = at::zeros({4}), two = at::zeros({4});
  const int64_t begin_ns = clock.monotonic_ns();
  comm::Work first = lane->start(one, numbers(1)), second = lane->start(two, numbers(5));
  EXPECT_THAT(device.log, ::testing::IsSupersetOf({"record 0 on 0", "7 waits for 0", "record 3 on 7"}));
  second.wait();
  EXPECT_EQ(second.started_ns(), begin_ns + 2'000'000);
  EXPECT_EQ(second.finished_ns(), begin_ns + 4'000'000);
  first.wait();
  EXPECT_EQ(first.started_ns(), begin_ns);
  EXPECT_EQ(first.finished_ns(), begin_ns + 2'000'000);
}

TEST(PinnedBuffer, IsMemoryLikeAnyOtherWhereTheDeviceIsTheCpu) {
  const int64_t before = memory_usage(MemoryKind::kOptimizer).current_bytes;
  const at::Tensor buffer = tensor::pinned_buffer(64, MemoryKind::kOptimizer, at::kCPU);
  EXPECT_TRUE(buffer.equal(at::zeros({64})));
  EXPECT_EQ(memory_usage(MemoryKind::kOptimizer).current_bytes - before, 64 * 4);
}

}  // namespace
}  // namespace furrow::train
