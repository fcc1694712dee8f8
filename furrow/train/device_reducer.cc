#include <ATen/ops/from_blob.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <exception>
#include <optional>

#include "furrow/base/log.h"
#include "furrow/tensor/combine_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/flat_buffer_torch.h"
#include "furrow/train/device_reducer_torch.h"

namespace furrow::train {
namespace {

using tensor::Combination;

Combination combination_of(comm::Reduction reduction) {
  switch (reduction) {
    case comm::Reduction::kSum:
    case comm::Reduction::kAvg:
      return Combination::kSum;
    case comm::Reduction::kMin:
      return Combination::kMinimum;
    case comm::Reduction::kMax:
      return Combination::kMaximum;
    case comm::Reduction::kProd:
      return Combination::kProduct;
  }
  return Combination::kSum;
}

class LibtorchReducer : public comm::DeviceReducer {
 public:
  explicit LibtorchReducer(const at::Device& device) : device_(device) {}

  std::byte* staging(size_t bytes) override {
    staging_ = at::Tensor();  // before there is another
    staging_ = tensor::flat_buffer(static_cast<int64_t>(std::max<size_t>(1, bytes)), MemoryKind::kOther,
                                   at::kByte, device_);
    return static_cast<std::byte*>(staging_.data_ptr());
  }
  bool has_stream() const override { return false; }
  void wait_for(void*) override {}
  void record(void*) override {}
  void drain() noexcept override {}

  void combine(const comm::ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b,
               std::byte* out) override {
    tensor::combine(combination_of(kind.reduction), here(kind, n, a), here(kind, n, b), here(kind, n, out));
  }
  void finish(const comm::ReduceKind& kind, int64_t n, std::byte* data) override {
    if (kind.reduction == comm::Reduction::kAvg && kind.ranks > 1)
      tensor::divide(here(kind, n, data), kind.ranks);
  }

 private:
  at::Tensor here(const comm::ReduceKind& kind, int64_t n, const std::byte* data) const {
    return at::from_blob(const_cast<std::byte*>(data), {n},
                         at::TensorOptions().dtype(tensor::scalar_type(kind.dtype)).device(device_));
  }

  const at::Device device_;
  at::Tensor staging_;
};

// Its memory too is of its stream: libtorch's allocator gives it what no other stream still uses.
class StreamReducer final : public LibtorchReducer {
 public:
  StreamReducer(const at::Device& device, const at::Device& memory)
      : LibtorchReducer(memory), guard_(device.type()), stream_(guard_.getStreamFromGlobalPool(device)) {}
  ~StreamReducer() override { drain(); }

  std::byte* staging(size_t bytes) override {
    const c10::StreamGuard on(stream_);
    return LibtorchReducer::staging(bytes);
  }
  bool has_stream() const override { return true; }
  void wait_for(void* event) override { guard_.block(event, stream_); }
  void record(void* event) override {
    guard_.record(&event, stream_, stream_.device_index(), c10::EventFlag::PYTORCH_DEFAULT);
  }
  void drain() noexcept override {
    try {
      guard_.synchronizeStream(stream_);
    } catch (const std::exception& error) {  // a device that has failed does nothing more
      log_warning(error.what());
    }
  }
  void combine(const comm::ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b,
               std::byte* out) override {
    const c10::StreamGuard on(stream_);
    LibtorchReducer::combine(kind, n, a, b, out);
  }
  void finish(const comm::ReduceKind& kind, int64_t n, std::byte* data) override {
    const c10::StreamGuard on(stream_);
    LibtorchReducer::finish(kind, n, data);
  }

 private:
  const c10::impl::VirtualGuardImpl guard_;
  const c10::Stream stream_;
};

}  // namespace

std::unique_ptr<comm::DeviceReducer> make_device_reducer(const at::Device& device) {
  if (device.is_cpu()) return std::make_unique<LibtorchReducer>(device);
  return make_stream_reducer(device, device);
}

std::unique_ptr<comm::DeviceReducer> make_stream_reducer(const at::Device& device, const at::Device& memory) {
  return std::make_unique<StreamReducer>(device, memory);
}

comm::RankDevice reduced_on(const at::Device& device) {
  return {.index = std::max<int>(0, device.index()),
          .make_reducer = [device] { return make_device_reducer(device); }};
}

}  // namespace furrow::train
