// What the timer of a device asks of c10's interface, of a device that writes it down; what the driver is
// asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "furrow/train/cuda_driver.h"
#include "furrow/train/device_timer_torch.h"
#include "tests/testing/written_device_torch.h"

namespace furrow::train {
namespace {

using ::testing::ElementsAre;
using testing::WrittenDevice;

class DeviceTimers : public ::testing::Test {
 protected:
  DeviceTimer timer() {
    return DeviceTimer(WrittenDevice::device(), [this] { device.log.emplace_back("occupied"); });
  }
  int64_t occupied() const { return std::ranges::count(device.log, "occupied"); }

  WrittenDevice device;
};

// 20 calls between two events 2 ms apart: 0.1 ms each.
TEST_F(DeviceTimers, OccupyTheDeviceForAsLongAsTheyAreTold) {
  DeviceTimer timer = this->timer();
  EXPECT_EQ(occupied(), 40);
  EXPECT_EQ(device.log.back(), "wait for stream 0");
  for (const auto& [ahead_ns, calls] :
       {std::pair(0, 1), {250'000, 3}, {1'000'000, 10}, {1'000'000'000, 400}}) {
    device.log.clear();
    timer.begin(ahead_ns);
    EXPECT_EQ(occupied(), calls) << ahead_ns;
  }
}

// An event behind each instruction, and nothing between them while the thread is ahead of the device.
TEST_F(DeviceTimers, AskHowLongTheDeviceTookBetweenInstructions) {
  DeviceTimer timer = this->timer();
  device.landed = -1;
  device.log.clear();
  timer.begin(0);
  timer.mark(3, false);
  timer.mark(5, false);
  EXPECT_THAT(device.log, ElementsAre("occupied", "record 0 on 0", "record 1 on 0", "record 2 on 0"));
  const std::vector<DeviceTimer::Time> times = timer.end();
  EXPECT_EQ(device.log.back(), "wait for stream 0");
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times[0].instruction, 3);
  EXPECT_EQ(times[1].instruction, 5);
  EXPECT_DOUBLE_EQ(times[1].seconds, 2e-3);
}

// Else what follows would be timed as the thread tells it.
TEST_F(DeviceTimers, OccupyItAgainWhereItHasCaughtUp) {
  DeviceTimer timer = this->timer();
  device.landed = -1;
  timer.begin(0);
  device.log.clear();
  timer.mark(0, true);
  EXPECT_THAT(device.log, ElementsAre("record 1 on 0", "occupied", "record 2 on 0"));
  device.log.clear();
  timer.mark(1, false);
  EXPECT_THAT(device.log, ElementsAre("record 3 on 0")) << "control";
  device.landed = 3;  // the device is through with it while the thread still tells the next
  device.log.clear();
  timer.mark(2, false);
  EXPECT_THAT(device.log, ElementsAre("record 4 on 0", "occupied", "record 5 on 0"));
}

TEST(CudaDrivers, SayNameAndMemory) {
  CudaDriver driver;
  driver.init = [](unsigned) { return 0; };
  driver.device = [](int* device, int ordinal) {
    *device = ordinal + 7;
    return ordinal > 1 ? 101 : 0;
  };
  driver.name = [](char* name, int size, int device) {
    std::strncpy(name, device == 8 ? "Second" : "First", static_cast<size_t>(size));
    return 0;
  };
  driver.memory = [](size_t* bytes, int) {
    *bytes = size_t{80} << 30;
    return 0;
  };
  const auto facts = gpu_facts(driver, 1);
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->name, "Second");
  EXPECT_EQ(facts->memory_bytes, int64_t{80} << 30);
  EXPECT_FALSE(gpu_facts(driver, 2)) << "no such GPU";
  driver.memory = [](size_t*, int) { return 999; };
  EXPECT_FALSE(gpu_facts(driver, 0));
}

}  // namespace
}  // namespace furrow::train
