// Where there are GPUs (label gpu): what a rank's device adds has the bits of the host, in the order of
// streams, by itself and between ranks over NCCL.  Skips itself elsewhere.
#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/device_reducer_torch.h"
#include "tests/testing/run_ranks.h"

namespace furrow::train {
namespace {

constexpr int64_t kElements = (int64_t{9} << 20) + 7;  // more than is staged at a time

int gpus() {
  const bool built = c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA);
  return built ? c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->deviceCount() : 0;
}

at::Device gpu(int index) { return {at::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

// Of every size that the type has.
at::Tensor numbers(at::ScalarType type, int rank) {
  const at::Tensor i = at::arange(kElements, at::kLong) * (2 * rank + 3) % 10007 - 5003;
  return (i.to(at::kDouble) * at::exp2(i.remainder(23).to(at::kDouble) - 11) / 4096).to(type).contiguous();
}

std::byte* bytes(const at::Tensor& x) { return static_cast<std::byte*>(x.data_ptr()); }

// By comm/reduce.cc.
at::Tensor sum_of(at::ScalarType type, comm::Reduction reduction, int ranks) {
  std::vector<at::Tensor> terms;
  std::vector<const std::byte*> sources;
  for (int r = 0; r < ranks; ++r) terms.push_back(numbers(type, r));
  for (const at::Tensor& term : terms) sources.push_back(bytes(term));
  const at::Tensor sum = at::empty({kElements}, type);
  std::byte* const to[] = {bytes(sum)};
  comm::reduce_tree({tensor::dtype_of(type), reduction, ranks}, kElements, sources, to);
  return sum;
}

bool same(const at::Tensor& a, const at::Tensor& b) {
  return std::memcmp(bytes(a), bytes(b), a.nbytes()) == 0;
}

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};

TEST(DeviceSums, HaveTheBitsOfTheHost) {
  if (gpus() == 0) GTEST_SKIP() << "no GPU";
  const auto reducer = make_device_reducer(gpu(0));
  ASSERT_TRUE(reducer->has_stream());
  for (const at::ScalarType type : kTypes) {
    for (const auto reduction : {comm::Reduction::kSum, comm::Reduction::kAvg, comm::Reduction::kMin,
                                 comm::Reduction::kMax, comm::Reduction::kProd}) {
      const comm::ReduceKind kind{tensor::dtype_of(type), reduction, 2};
      const at::Tensor a = numbers(type, 0).to(gpu(0)), b = numbers(type, 1).to(gpu(0));
      reducer->combine(kind, kElements, bytes(a), bytes(b), bytes(a));
      reducer->finish(kind, kElements, bytes(a));
      reducer->drain();
      EXPECT_TRUE(same(a.cpu(), sum_of(type, reduction, 2))) << type << " " << to_string(reduction);
      EXPECT_FALSE(same(b.cpu(), a.cpu())) << "control";
    }
  }
}

// Over NCCL between as many ranks as there are GPUs, which are threads here.
TEST(DeviceSums, AreTheTreesBetweenRanks) {
  const int ranks = std::min(gpus(), 8);
  if (ranks < 2) GTEST_SKIP() << "fewer than two GPUs";
  std::vector<int64_t> counts(static_cast<size_t>(ranks), (kElements - 1000) / (ranks - 1));
  counts[0] = 1000 + (kElements - 1000) % (ranks - 1);
  const auto sum_on = [&](comm::Communicator& c, at::ScalarType type, bool scatters) {
    const auto self = static_cast<size_t>(c.rank());
    const c10::StreamGuard on(c10::impl::VirtualGuardImpl(at::kCUDA).getDefaultStream(gpu(c.rank())));
    const at::Tensor data = numbers(type, c.rank()).to(gpu(c.rank()));
    const at::Tensor out = at::zeros({scatters ? counts[self] : kElements}, data.options());
    comm::Collective call{
        .kind = scatters ? comm::CollectiveKind::kReduceScatter : comm::CollectiveKind::kAllReduce,
        .dtype = tensor::dtype_of(type),
        .in = {bytes(data), data.nbytes()},
        .out = {bytes(out), out.nbytes()},
        .label = "gpu"};
    if (scatters) call.counts = counts;
    if (ranks > 2) {
      EXPECT_EQ(c.would_run(call, c.world()), "direct over NCCL, added on the device");
    }
    c.world().run(call);
    at::Tensor expected = sum_of(type, comm::Reduction::kSum, ranks);
    if (scatters) {
      const int64_t begin = std::accumulate(counts.begin(), counts.begin() + c.rank(), int64_t{0});
      expected = expected.narrow(0, begin, counts[self]).contiguous();
    }
    EXPECT_TRUE(same(out.cpu(), expected)) << type << (scatters ? ", scattered" : "");
  };
  testing::run_ranks(ranks,
                     [&](comm::Communicator& c) {
                       c.use_device(reduced_on(gpu(c.rank())));
                       for (const at::ScalarType type : kTypes) {
                         for (const bool scatters : {false, true}) sum_on(c, type, scatters);
                       }
                     },
                     {.timeout_ms = 120'000, .backend = "nccl"});
}

}  // namespace
}  // namespace furrow::train
