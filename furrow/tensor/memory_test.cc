// Where tensors live: flat buffers, the counting allocator, arrays, the gradient sink, thread counts.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <thread>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/tensor/gradient_sink_torch.h"
#include "furrow/tensor/test_support_torch.h"
#include "furrow/tensor/threads_torch.h"

namespace furrow::tensor {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;

int64_t current(MemoryKind kind) { return memory_usage(kind).current_bytes; }
bool aligned(const at::Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 64 == 0; }

TEST(FlatBuffer, IsCountedAlignedAndZero) {
  const int64_t before = current(MemoryKind::kOptimizer);
  at::Tensor part;
  {
    const at::Tensor flat = flat_buffer(2048, MemoryKind::kOptimizer);
    EXPECT_EQ(current(MemoryKind::kOptimizer) - before, 2048 * 4);
    EXPECT_TRUE(aligned(flat));
    EXPECT_TRUE(bitwise_equal(flat, at::zeros({2048})));
    part = view(flat, 32, {3, 5});
    part.fill_(2);
    EXPECT_EQ(flat.sum().item<float>(), 30);
    EXPECT_EQ(flat[31].item<float>() + flat[32 + 15].item<float>(), 0);
    EXPECT_THROW(view(flat, 2040, {3, 3}), Error);
    EXPECT_THROW(view(flat, -1, {3}), Error);
  }
  EXPECT_EQ(part.sum().item<float>(), 30) << "a view keeps its buffer";
  part.reset();
  EXPECT_EQ(current(MemoryKind::kOptimizer), before);
}

TEST(FlatBuffer, MayBeEmpty) { EXPECT_EQ(flat_buffer(0, MemoryKind::kGradients).numel(), 0); }

TEST(Allocator, CountsByTheKindOfTheThread) {
  install_counting_allocator();
  install_counting_allocator();
  const int64_t activations = current(MemoryKind::kActivations), other = current(MemoryKind::kOther);
  at::Tensor kept;
  {
    const MemoryScope scope(MemoryKind::kActivations);
    kept = at::empty({1000});
    EXPECT_TRUE(aligned(kept));
    EXPECT_EQ(current(MemoryKind::kActivations) - activations, 4000);
  }
  EXPECT_EQ(current(MemoryKind::kActivations) - activations, 4000);
  EXPECT_EQ(current(MemoryKind::kOther), other);
  std::thread([&] {
    kept.reset();
  }).join();  // the kind belongs to the block, not to the thread that frees it
  EXPECT_EQ(current(MemoryKind::kActivations), activations);
}

TEST(Allocator, RepeatedStepsMissNothing) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "blocks are not reused under AddressSanitizer";
#endif
  install_counting_allocator();
  const auto step = [] {
    std::vector<at::Tensor> held;
    for (const int64_t size : {1, 100, 5000, 70000, 1000000, 100, 5000}) held.push_back(at::empty({size}));
  };
  step();
  const AllocatorStats before = allocator_stats();
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(allocator_stats().misses, before.misses);
  EXPECT_EQ(allocator_stats().in_use_bytes, before.in_use_bytes);
  release_cached_memory();
  EXPECT_EQ(allocator_stats().cached_bytes, 0);
  step();
  EXPECT_GT(allocator_stats().misses, before.misses);
}

TEST(Allocator, KeepsABoundedAmount) {
  install_counting_allocator();
  for (int64_t mib = 1; mib <= 100; ++mib) {  // a hundred different sizes, one alive at a time
    const at::Tensor block = at::empty({mib << 20}, at::kByte);
  }
  EXPECT_LE(allocator_stats().cached_bytes, int64_t{260} << 20);
  release_cached_memory();
}

TEST(Allocator, SaysWhatItCouldNotAllocate) {
  install_counting_allocator();
  const AllocatorStats before = allocator_stats();
  try {
    at::empty({int64_t{1} << 50}, at::kByte);
    FAIL() << "allocated a pebibyte";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
  }
  EXPECT_EQ(allocator_stats().in_use_bytes, before.in_use_bytes);
}

TEST(Array, RoundTripsThroughTensors) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kI64, DType::kI32, DType::kU8, DType::kBool}) {
    EXPECT_EQ(dtype_of(scalar_type(dtype)), dtype);
  }
  EXPECT_THROW(dtype_of(at::kComplexFloat), Error);
  const Array array(DType::kF32, {2, 3});
  std::fill(array.as<float>().begin(), array.as<float>().end(), 1.5f);
  const at::Tensor tensor = from_array(array.view());
  EXPECT_TRUE(bitwise_equal(tensor, at::full({2, 3}, 1.5f)));
  const ArrayView back = to_array(tensor);
  EXPECT_EQ(back.shape, array.shape());
  EXPECT_EQ(back.bytes.data(), array.bytes().data());
  EXPECT_THROW(to_array(tensor.t()), Error);
}

TEST(GradientSink, WritesEachParameterOnce) {
  GradientSink sink(4);
  sink.put(0, at::full({2}, 1.0f));
  sink.defer(1, [](float* out) { out[0] = 2; });
  sink.defer({3}, [](std::span<float* const> out) { out[0][0] = 3; });
  EXPECT_TRUE(sink.has(0) && sink.has(1) && !sink.has(2) && sink.has(3));
  EXPECT_THROW(sink.put(0, at::zeros({2})), Error);
  EXPECT_THROW(sink.defer(1, [](float*) {}), Error);
  EXPECT_THROW(sink.put(3, at::zeros({1})), Error);
  EXPECT_THROW(sink.put(4, at::zeros({1})), Error);
  std::vector<float> flat(6, -1.0f);
  const std::vector<std::span<float>> targets{{&flat[0], 2}, {&flat[2], 1}, {&flat[3], 2}, {&flat[5], 1}};
  sink.write(targets);
  EXPECT_EQ(flat, (std::vector<float>{1, 1, 2, 0, 0, 3})) << "the third got none: zeros";
  EXPECT_FALSE(sink.has(0)) << "ready for the next microbatch";
  sink.write(targets);
  EXPECT_EQ(flat, std::vector<float>(6, 0.0f));
}

// Of frozen parameters memory is needed only where their gradient comes with that of one that is not.
TEST(GradientSink, SaysWhatItWrites) {
  GradientSink sink({true, true, false, true, false});
  sink.put(0, at::zeros({1}));
  sink.defer({1, 2}, [](std::span<float* const> out) { out[0][0] = out[1][0] = 3; });
  sink.defer(3, [](float*) { ADD_FAILURE() << "nobody wants it"; });
  EXPECT_TRUE(sink.has(0) && sink.has(1) && sink.has(3));
  EXPECT_FALSE(sink.writes(0) || sink.writes(3));
  EXPECT_TRUE(sink.writes(1) && sink.writes(2) && sink.writes(4));
  std::vector<float> flat(3, -1.0f);
  const std::vector<std::span<float>> targets{{}, {&flat[0], 1}, {&flat[1], 1}, {}, {&flat[2], 1}};
  sink.write(targets);
  EXPECT_EQ(flat, (std::vector<float>{3, 3, 0}));
}

TEST(GradientSink, ForgetsWhatItHeld) {
  GradientSink sink(1);
  const auto held = std::make_shared<int>(0);
  sink.defer(0, [held](float*) {});
  EXPECT_EQ(held.use_count(), 2);
  std::vector<float> out(1);
  const std::vector<std::span<float>> targets{out};
  sink.write(targets);
  EXPECT_EQ(held.use_count(), 1);
}

TEST(GradientSink, RefusesAGradientOfAnotherSize) {
  GradientSink sink(1);
  sink.put(0, at::zeros({3}));
  std::vector<float> out(2);
  const std::vector<std::span<float>> targets{out};
  EXPECT_THROW(sink.write(targets), Error);
}

TEST(Threads, BelongToTheCallingThread) {
  set_thread_count(2);
  EXPECT_EQ(thread_count(), 2);
  int other = 0;
  std::thread([&] {
    set_thread_count(1);
    other = thread_count();
  }).join();
  EXPECT_EQ(other, 1);
  EXPECT_EQ(thread_count(), 2);
  EXPECT_THROW(set_thread_count(0), Error);
}

}  // namespace
}  // namespace furrow::tensor
