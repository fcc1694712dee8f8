// Who adds on a device: the bits of comm's own arithmetic, and what its stream is asked for.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "furrow/base/half.h"
#include "furrow/base/memory.h"
#include "furrow/train/device_reducer_torch.h"
#include "tests/testing/written_device_torch.h"

namespace furrow::train {
namespace {

using comm::ReduceKind;
using comm::Reduction;
using ::testing::ElementsAre;
using testing::WrittenDevice;

constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16,
                            DType::kI64, DType::kI32, DType::kU8};
constexpr Reduction kAll[] = {Reduction::kSum, Reduction::kAvg, Reduction::kMin, Reduction::kMax,
                              Reduction::kProd};
constexpr int64_t kElements = 1037;

// Any bits: of floating types, values of all sizes, subnormal ones, infinities, both zeros, NaNs.
std::vector<std::byte> make_numbers(DType type, uint64_t seed) {
  std::vector<std::byte> bytes(static_cast<size_t>(kElements) * dtype_size(type));
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (std::byte& byte : bytes) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<std::byte>(state >> 32);
  }
  return bytes;
}

bool is_nan(DType type, const std::byte* p) {
  uint16_t half = 0;
  float single = 0;
  double wide = 0;
  switch (type) {
    case DType::kF64:
      return std::memcpy(&wide, p, 8), std::isnan(wide);
    case DType::kF32:
      return std::memcpy(&single, p, 4), std::isnan(single);
    case DType::kF16:
      return std::memcpy(&half, p, 2), std::isnan(f16_to_float(half));
    case DType::kBF16:
      return std::memcpy(&half, p, 2), std::isnan(bf16_to_float(half));
    default:
      return false;
  }
}

// The same bits, but for which NaN it is.
int64_t differing(DType type, const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); i += dtype_size(type)) {
    const bool nans = is_nan(type, a.data() + i) && is_nan(type, b.data() + i);
    if (!nans && std::memcmp(a.data() + i, b.data() + i, dtype_size(type)) != 0) ++count;
  }
  return count;
}

TEST(DeviceReducer, HasTheBitsOfTheHost) {
  const auto reducer = make_device_reducer(at::kCPU);
  EXPECT_FALSE(reducer->has_stream());
  for (const DType type : kTypes) {
    for (const Reduction reduction : kAll) {
      const ReduceKind kind{type, reduction, 3};
      const auto a = make_numbers(type, 1), b = make_numbers(type, 2);
      auto expected = a, sum = a;
      comm::combine(kind, kElements, a.data(), b.data(), expected.data());
      comm::finish(kind, kElements, expected.data());
      reducer->combine(kind, kElements, sum.data(), b.data(), sum.data());
      reducer->finish(kind, kElements, sum.data());
      EXPECT_EQ(differing(type, sum, expected), 0) << to_string(type) << ' ' << to_string(reduction);
      EXPECT_GT(differing(type, sum, b), kElements / 4) << "control";
    }
  }
}

TEST(DeviceReducer, ItsStagingIsCounted) {
  const auto reducer = make_device_reducer(at::kCPU);
  const int64_t before = memory_usage(MemoryKind::kOther).current_bytes;
  const auto held = [&] { return memory_usage(MemoryKind::kOther).current_bytes - before; };
  reducer->staging(1000);
  EXPECT_EQ(held(), 1000);
  std::byte* room = reducer->staging(3000);
  room[2999] = std::byte{1};
  EXPECT_EQ(held(), 3000) << "one at a time";
}

// Of a device whose streams and events write down what is asked of them; the memory is the host's.
TEST(DeviceReducer, AddsOnAStreamOfItsOwn) {
  WrittenDevice device;
  {
    const auto reducer = make_stream_reducer(WrittenDevice::device(), at::kCPU);
    EXPECT_TRUE(reducer->has_stream());
    int behind = 31, done = 32;
    reducer->wait_for(&behind);
    std::array<float, 2> a{1, 2}, b{10, 20};
    const ReduceKind kind{DType::kF32, Reduction::kAvg, 2};
    auto* const to = reinterpret_cast<std::byte*>(a.data());
    reducer->combine(kind, 2, to, reinterpret_cast<const std::byte*>(b.data()), to);
    reducer->finish(kind, 2, to);
    reducer->record(&done);
    EXPECT_THAT(a, ElementsAre(5.5F, 11));
    EXPECT_THAT(device.log, ElementsAre("7 waits for 31", "on 7", "on 0", "on 7", "on 0", "record 32 on 7"));
    device.log.clear();
    reducer->staging(100);
    EXPECT_THAT(device.log, ElementsAre("on 7", "on 0")) << "memory of that stream";
    device.log.clear();
  }
  EXPECT_THAT(device.log, ElementsAre("wait for stream 7")) << "nothing is added to memory that has gone";
}

TEST(DeviceReducer, IsWhatACommunicatorIsTold) {
  const comm::RankDevice here = reduced_on(at::kCPU), there = reduced_on(at::Device(at::kCUDA, 3));
  EXPECT_EQ(here.index, 0);
  EXPECT_EQ(there.index, 3);
  EXPECT_FALSE(here.make_reducer()->has_stream());
}

}  // namespace
}  // namespace furrow::train
