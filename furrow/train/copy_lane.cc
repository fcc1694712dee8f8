#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/train/copy_lane_torch.h"

namespace furrow::train {
namespace {

void check_alike(const at::Tensor& to, const at::Tensor& from) {
  FURROW_CHECK(to.scalar_type() == from.scalar_type() && to.numel() == from.numel() && to.is_contiguous() &&
                   from.is_contiguous(),
               "a copy between a device and its host moves bytes as they are");
}

// On a stream of the device.  Times are those of the device, laid behind one another from when each copy was
// started: its events tell how long, not when.
class StreamCopy final : public comm::Work::State {
 public:
  StreamCopy(const c10::Stream& stream, at::Tensor to, at::Tensor from, const Clock* clock)
      : to_(std::move(to)),
        from_(std::move(from)),
        begin_(stream.device_type(), c10::EventFlag::BACKEND_DEFAULT),
        end_(stream.device_type(), c10::EventFlag::BACKEND_DEFAULT),
        issued_ns_(clock->monotonic_ns()) {}

  // REQUIRES: once; `before`, the copy before it on the stream, may be null.
  void issue(const c10::Stream& stream, std::shared_ptr<StreamCopy> before) {
    before_ = std::move(before);
    const c10::StreamGuard guard(stream);
    begin_.record(stream);
    to_.copy_(from_, /*non_blocking=*/true);
    end_.record(stream);
  }

  bool done() const override { return end_.query(); }
  void wait() override {
    end_.synchronize();
    find_times();
  }
  int64_t started_ns() const override { return started_ns_; }
  int64_t finished_ns() const override { return finished_ns_; }

 private:
  void find_times() {
    if (finished_ns_ != 0) return;
    started_ns_ = issued_ns_;
    if (const std::shared_ptr<StreamCopy> before = std::exchange(before_, nullptr)) {
      before->find_times();
      started_ns_ = std::max(started_ns_, before->finished_ns_);
    }
    finished_ns_ = started_ns_ + static_cast<int64_t>(begin_.elapsedTime(end_) * 1e6);
  }

  const at::Tensor to_, from_;
  c10::Event begin_, end_;
  const int64_t issued_ns_;
  std::shared_ptr<StreamCopy> before_;
  int64_t started_ns_ = 0, finished_ns_ = 0;
};

class StreamLane final : public CopyLane {
 public:
  StreamLane(const at::Device& device, const Clock* clock)
      : guard_(device.type()),
        device_(device),
        clock_(clock),
        stream_(guard_.getStreamFromGlobalPool(device)),
        told_(device.type()) {}

  comm::Work start(const at::Tensor& to, const at::Tensor& from) override {
    check_alike(to, from);
    told_.record(guard_.getStream(device_));
    told_.block(stream_);
    auto copy = std::make_shared<StreamCopy>(stream_, to, from, clock_);
    copy->issue(stream_, std::exchange(last_, copy));
    return comm::Work(copy);
  }

 private:
  const c10::impl::VirtualGuardImpl guard_;
  const at::Device device_;
  const Clock* const clock_;
  const c10::Stream stream_;
  c10::Event told_;
  std::shared_ptr<StreamCopy> last_;
};

// Carried out when somebody waits for it, or for one behind it.
class LateCopy final : public comm::Work::State {
 public:
  using Queue = std::deque<std::shared_ptr<LateCopy>>;

  LateCopy(Queue* queue, at::Tensor to, at::Tensor from, const Clock* clock)
      : queue_(*queue), to_(std::move(to)), from_(std::move(from)), clock_(*clock) {}

  bool done() const override { return finished_ns_ != 0; }
  void wait() override {
    while (!done()) {
      const std::shared_ptr<LateCopy> first = queue_.front();
      queue_.pop_front();
      first->carry_out();
    }
  }
  int64_t started_ns() const override { return started_ns_; }
  int64_t finished_ns() const override { return finished_ns_; }

 private:
  void carry_out() {
    started_ns_ = clock_.monotonic_ns();
    to_.copy_(from_);
    finished_ns_ = std::max<int64_t>(1, clock_.monotonic_ns());
  }

  Queue& queue_;
  const at::Tensor to_, from_;
  const Clock& clock_;
  int64_t started_ns_ = 0, finished_ns_ = 0;
};

class LateLane final : public CopyLane {
 public:
  explicit LateLane(const Clock* clock) : clock_(clock) {}

  comm::Work start(const at::Tensor& to, const at::Tensor& from) override {
    check_alike(to, from);
    queue_.push_back(std::make_shared<LateCopy>(&queue_, to, from, clock_));
    return comm::Work(queue_.back());
  }

 private:
  const Clock* const clock_;
  LateCopy::Queue queue_;
};

}  // namespace

std::unique_ptr<CopyLane> make_copy_lane(const at::Device& device, const Clock* clock) {
  if (device.is_cpu()) return std::make_unique<LateLane>(clock);
  return std::make_unique<StreamLane>(device, clock);
}

}  // namespace furrow::train
