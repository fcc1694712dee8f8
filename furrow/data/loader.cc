#include "furrow/data/loader.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/base/thread.h"
#include "furrow/data/positions.h"

namespace furrow::data {
namespace {

// One batch and its memory, sized for the largest microbatch.
struct Slot {
  std::vector<Array> memory;  // one per field
  Batch batch;
};

// Cuts positions into microbatches and reads them.  Used by one thread at a time.
class Reader {
 public:
  Reader(const Source& source, SampleOrder order, LoaderOptions options)
      : source_(source), order_(order), options_(std::move(options)) {
    share_ = {std::move(options_.sizes), std::move(options_.offsets), options_.stride};
    share_.check();
    FURROW_CHECK(options_.position >= 0 && options_.prefetch >= 0, "a negative position or prefetch");
    FURROW_CHECK(order_.size() <= source_.size(), "an order over more samples than the source has");
    largest_ = *std::ranges::max_element(share_.sizes);
    if (options_.end >= 0)
      largest_ = std::min(largest_, std::max<int64_t>(options_.end - options_.position, 0));
  }

  bool at_end() const { return range().size == 0; }

  std::unique_ptr<Slot> make_slot() const {
    auto slot = std::make_unique<Slot>();
    for (const Field& field : source_.fields()) {
      slot->memory.emplace_back(field.dtype, batch_shape(field, largest_), MemoryKind::kData);
    }
    return slot;
  }

  // The next microbatch into `slot`.  REQUIRES: !at_end().
  void read(Slot& slot) {
    const PositionRange positions = range();
    prepare(slot, positions);
    try {
      source_.read_at(slot.batch.indices, slot.batch.sample_ids, slot.batch.arrays);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("reading samples at positions {} to {}", positions.begin,
                                           positions.begin + positions.size - 1));
    }
    ++next_;
  }

 private:
  PositionRange range() const { return share_.at(options_.position, next_, options_.end); }

  static Shape batch_shape(const Field& field, int64_t rows) {
    Shape shape{rows};
    shape.insert(shape.end(), field.shape.begin(), field.shape.end());
    return shape;
  }

  void prepare(Slot& slot, const PositionRange& positions) const {
    Batch& batch = slot.batch;
    const int64_t rows = positions.size;
    const bool same_views = batch.weight == rows && !batch.arrays.empty();
    batch.weight = rows;
    batch.sample_ids.resize(static_cast<size_t>(rows));
    batch.indices.resize(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; ++row)
      batch.sample_ids[static_cast<size_t>(row)] = positions.begin + row;
    order_.indices(positions.begin, batch.indices);
    if (same_views) return;
    batch.arrays.clear();
    for (size_t f = 0; f < slot.memory.size(); ++f) {
      const Field& field = source_.fields()[f];
      const size_t bytes = static_cast<size_t>(rows) * sample_bytes(field);
      batch.arrays.push_back(
          {field.dtype, batch_shape(field, rows), slot.memory[f].bytes().first(bytes), {}});
    }
  }

  const Source& source_;
  const SampleOrder order_;
  LoaderOptions options_;
  Share share_;
  int64_t largest_;
  int64_t next_ = 0;  // which of the share's microbatches comes next
};

using SlotPointer = std::unique_ptr<Slot>;

size_t prefetch_within_budget(const Source& source, const LoaderOptions& options) {
  const auto asked = static_cast<size_t>(std::max(options.prefetch, 0));
  if (options.memory_budget == 0 || options.sizes.empty()) return asked;
  uint64_t sample = 0;
  for (const Field& field : source.fields()) sample += sample_bytes(field);
  const uint64_t slot = sample * static_cast<uint64_t>(*std::ranges::max_element(options.sizes));
  const uint64_t slots = options.memory_budget / std::max<uint64_t>(slot, 1);
  if (slots < options.sizes.size()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("data.memory_budget is {}, but the {} microbatches of one step need {}: raise it, or "
                    "lower training.local_batch_size",
                    format_bytes(options.memory_budget), options.sizes.size(),
                    format_bytes(slot * options.sizes.size())));
  }
  return std::min<uint64_t>(asked, slots - options.sizes.size());
}

}  // namespace

// With a thread: `ready_` flows from it to the consumer, `free_` back; both, with `done_`, `error_` and
// `stop_`, are guarded by `mutex_`.  `held_` and `wait_ns_` belong to the consumer, `reader_` to whoever
// reads.
struct Loader::Impl {
  Impl(const Source& source, SampleOrder order, LoaderOptions options)
      : prefetch_(prefetch_within_budget(source, options)), reader_(source, order, std::move(options)) {
    if (prefetch_ > 0) start();
  }

  ~Impl() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wanted_.notify_one();
    thread_.join();
  }

  // Signals are for the thread that owns the run.
  void start() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { produce(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void produce() {
    set_thread_name("furrow-loader");
    try {
      while (SlotPointer slot = wait_for_slot()) {
        reader_.read(*slot);
        publish(std::move(slot), reader_.at_end());
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      filled_.notify_one();
    }
  }

  // A slot to fill once fewer than `prefetch` are ready; null to stop.
  SlotPointer wait_for_slot() {
    std::unique_lock lock(mutex_);
    if (reader_.at_end()) {
      done_ = true;
      filled_.notify_one();
      return nullptr;
    }
    wanted_.wait(lock, [this] { return stop_ || ready_.size() < prefetch_; });
    if (stop_) return nullptr;
    if (!free_.empty()) return pop(free_);
    lock.unlock();
    return reader_.make_slot();
  }

  void publish(SlotPointer slot, bool last) {
    const std::lock_guard lock(mutex_);
    ready_.push_back(std::move(slot));
    done_ = last;
    if (waiting_) filled_.notify_one();
  }

  // The next slot; null at the end.
  SlotPointer take() {
    std::unique_lock lock(mutex_);
    const auto decided = [this] { return !ready_.empty() || done_ || error_; };
    if (!decided()) {
      const int64_t start = system_clock().monotonic_ns();
      waiting_ = true;
      filled_.wait(lock, decided);
      waiting_ = false;
      wait_ns_ += system_clock().monotonic_ns() - start;
    }
    if (ready_.empty()) {
      if (error_) std::rethrow_exception(error_);
      return nullptr;
    }
    SlotPointer slot = pop(ready_);
    const bool wake = ready_.size() + 1 == prefetch_;
    lock.unlock();
    if (wake) wanted_.notify_one();
    return slot;
  }

  // The same without a thread: all of the reading is waiting.
  SlotPointer read_now() {
    if (error_) std::rethrow_exception(error_);
    if (reader_.at_end()) return nullptr;
    const int64_t start = system_clock().monotonic_ns();
    SlotPointer slot = free_.empty() ? reader_.make_slot() : pop(free_);
    try {
      reader_.read(*slot);
    } catch (...) {
      error_ = std::current_exception();
      throw;
    }
    wait_ns_ += system_clock().monotonic_ns() - start;
    return slot;
  }

  static SlotPointer pop(std::deque<SlotPointer>& from) {
    SlotPointer slot = std::move(from.front());
    from.pop_front();
    return slot;
  }

  const size_t prefetch_;
  Reader reader_;
  std::deque<SlotPointer> held_;
  int64_t wait_ns_ = 0;

  std::mutex mutex_;
  std::condition_variable wanted_;  // to the thread: room for another batch, or stop
  std::condition_variable filled_;  // to the consumer: a batch, the end or an error
  std::deque<SlotPointer> ready_, free_;
  bool waiting_ = false, done_ = false, stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

Loader::Loader(const Source& source, SampleOrder order, LoaderOptions options)
    : impl_(std::make_unique<Impl>(source, order, std::move(options))) {}

Loader::~Loader() = default;

const Batch* Loader::next() {
  SlotPointer slot = impl_->prefetch_ > 0 ? impl_->take() : impl_->read_now();
  if (slot == nullptr) return nullptr;
  impl_->held_.push_back(std::move(slot));
  return &impl_->held_.back()->batch;
}

void Loader::release() {
  FURROW_CHECK(!impl_->held_.empty(), "no batch is held");
  const std::lock_guard lock(impl_->mutex_);
  impl_->free_.push_back(Impl::pop(impl_->held_));
}

int64_t Loader::wait_ns() const { return impl_->wait_ns_; }

}  // namespace furrow::data
