#include "furrow/comm/nccl/test_support.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <utility>

#include "furrow/base/clock.h"

namespace furrow::comm {
namespace {

std::byte* see(const std::byte* pointer) {
  static const auto function = fake<void* (*)(void*)>("fake_cuda_see");
  return static_cast<std::byte*>(function(const_cast<std::byte*>(pointer)));
}

void launch(CudaStream stream, void (*function)(void*), void* data) {
  static const auto call = fake<int (*)(void*, void (*)(void*), void*)>("cudaLaunchHostFunc");
  check_cuda(library(), call(stream, function, data), "cudaLaunchHostFunc");
}

std::atomic<int64_t> pending = 0;

class FakeReducer : public DeviceReducer {
 public:
  explicit FakeReducer(bool in_stream) {
    if (in_stream)
      check_cuda(library(), library().cuda.stream_create_with_flags(&stream_, kCudaStreamNonBlocking),
                 "stream");
  }
  ~FakeReducer() override {
    if (stream_ != nullptr) library().cuda.stream_destroy(stream_);
    if (staging_ != nullptr) library().cuda.free(staging_);
  }

  std::byte* staging(size_t bytes) override {
    if (staging_ != nullptr) library().cuda.free(std::exchange(staging_, nullptr));
    check_cuda(library(), library().cuda.malloc(&staging_, std::max<size_t>(1, bytes)), "malloc");
    auto* const room = static_cast<std::byte*>(staging_);
    run([=] { std::memset(see(room), 0xee, bytes); });
    return room;
  }
  bool has_stream() const override { return stream_ != nullptr; }
  void wait_for(void* event) override {
    check_cuda(library(), library().cuda.stream_wait_event(stream_, static_cast<CudaEvent>(event), 0),
               "wait");
  }
  void record(void* event) override {
    check_cuda(library(), library().cuda.event_record(static_cast<CudaEvent>(event), stream_), "record");
  }
  void drain() noexcept override { library().cuda.stream_synchronize(stream_); }
  void combine(const ReduceKind& kind, int64_t n, const std::byte* a, const std::byte* b,
               std::byte* out) override {
    run([=] { comm::combine(kind, n, see(a), see(b), see(out)); });
  }
  void finish(const ReduceKind& kind, int64_t n, std::byte* data) override {
    run([=] { comm::finish(kind, n, see(data)); });
  }

 private:
  void run(std::function<void()> work) {
    if (stream_ == nullptr) return work();
    const auto late = [](void* data) {
      constexpr int64_t kLateNs = 50'000;
      const int64_t until_ns = system_clock().monotonic_ns() + kLateNs;
      while (system_clock().monotonic_ns() < until_ns) continue;
      const std::unique_ptr<std::function<void()>> owned(static_cast<std::function<void()>*>(data));
      (*owned)();
      --pending;
    };
    ++pending;
    launch(stream_, late, new std::function<void()>(std::move(work)));
  }

  CudaStream stream_ = nullptr;
  void* staging_ = nullptr;
};

}  // namespace

std::string fake_path() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libfurrow_fake_nccl.so";
}

const NcclLibrary& library() {
  if (!kReal) {
    ::setenv("FURROW_NCCL_LIBRARY", fake_path().c_str(), 1);
    ::setenv("FURROW_CUDART_LIBRARY", fake_path().c_str(), 1);
  }
  return nccl_library();
}

std::array<int64_t, 7> take_calls() {
  std::array<int64_t, 7> calls{};
  fake<void (*)(int64_t*)>("fake_nccl_take_calls")(calls.data());
  return calls;
}

int64_t take_host_copies() {
  std::array<int64_t, 5> bytes{};
  fake<void (*)(int64_t*)>("fake_cuda_take_copies")(bytes.data());
  return bytes[kCudaHostToDevice] + bytes[kCudaDeviceToHost];
}

DeviceBuffer::DeviceBuffer(const std::vector<std::byte>& content) : bytes_(content.size()) {
  check_cuda(library(), library().cuda.malloc(&data_, std::max<size_t>(1, bytes_)), "malloc");
  copy(data_, content.data(), bytes_);
}

DeviceBuffer::~DeviceBuffer() { library().cuda.free(data_); }

std::vector<std::byte> DeviceBuffer::content() const {
  std::vector<std::byte> content(bytes_);
  copy(content.data(), data_, bytes_);
  return content;
}

void DeviceBuffer::copy(void* to, const void* from, size_t bytes) {
  const CudaApi& cuda = library().cuda;
  CudaStream stream = nullptr;
  check_cuda(library(), cuda.stream_create_with_flags(&stream, kCudaStreamNonBlocking), "stream");
  check_cuda(library(), cuda.memcpy_async(to, from, bytes, kCudaMemcpyDefault, stream), "copy");
  check_cuda(library(), cuda.stream_synchronize(stream), "copy");  // no query: those are counted
  cuda.stream_destroy(stream);
}

RankDevice device_that_adds(int index, Adds how) {
  if (how == Adds::kOnHost) return {.index = index};
  return {.index = index, .make_reducer = [in_stream = how == Adds::kInStream] {
            return std::make_unique<FakeReducer>(in_stream);
          }};
}

std::string to_string(Adds how) {
  return how == Adds::kOnHost ? "host" : how == Adds::kInStream ? "stream" : "caller";
}

int64_t pending_additions() { return pending; }

void put_on_default_stream(void (*function)(void*), void* data) { launch(nullptr, function, data); }

}  // namespace furrow::comm
