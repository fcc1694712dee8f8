#include "furrow/data/loader.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/process.h"
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

// Cuts positions into microbatches and reads them.  Thread safe.
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

  int64_t largest() const { return largest_; }  // samples of a microbatch

  // Is the share over before its microbatch `k`?
  bool at_end(int64_t k) const { return range(k).size == 0; }

  std::unique_ptr<Slot> make_slot() const {
    auto slot = std::make_unique<Slot>();
    for (const Field& field : source_.fields()) {
      slot->memory.emplace_back(field.dtype, batch_shape(field, largest_), MemoryKind::kData);
    }
    return slot;
  }

  // Microbatch `k` of the share into `slot`.  REQUIRES: !at_end(k).
  void read(int64_t k, Slot& slot) const {
    const PositionRange positions = range(k);
    prepare(slot, positions);
    try {
      source_.read_at(slot.batch.indices, slot.batch.sample_ids, slot.batch.arrays);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("reading samples at positions {} to {}", positions.begin,
                                           positions.begin + positions.size - 1));
    }
  }

 private:
  PositionRange range(int64_t k) const { return share_.at(options_.position, k, options_.end); }

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

// Threads for a source of so many readers.  Where a batch has samples for all of them they share it when it
// takes long, and more threads than cores, with the consumer that reads too, would only wait for a core.
size_t threads_for(int readers, int64_t largest_batch) {
  const int all = std::max(readers, 1);
  if (largest_batch < all) return static_cast<size_t>(all);
  return static_cast<size_t>(std::min(all, std::max(1, core_count() - 1)));
}

}  // namespace

// With threads: each takes the next place of `ahead_`, fills it and gives it to the consumer, which takes the
// first one, and fills places itself before it would sleep; all from `ahead_` on is guarded by `mutex_`.
// `held_` and `wait_ns_` belong to the consumer.
struct Loader::Impl {
  Impl(const Source& source, SampleOrder order, LoaderOptions options)
      : prefetch_(prefetch_within_budget(source, options)), reader_(source, order, std::move(options)) {
    start(std::min(prefetch_, threads_for(source.readers(), reader_.largest())));
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wanted_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // Signals are for the thread that owns the run.
  void start(size_t threads) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { produce(); });
    } catch (const std::system_error&) {
      // At a limit of threads those that run are enough.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (threads > 0 && threads_.empty())
      throw Error(ErrorCode::kResourceExhausted,
                  "no thread to read data with: raise the limit of threads (ulimit -u), or set "
                  "data.prefetch_batches = 0");
    helps_ = threads_.size() < std::max<size_t>(2, static_cast<size_t>(core_count()));
  }

  // A microbatch that is read, or will be.
  struct Place {
    SlotPointer slot;          // null while it is read
    std::exception_ptr error;  // instead of it
    bool decided() const { return slot || error; }
  };

  void produce() {
    set_thread_name("furrow-loader");
    std::unique_lock lock(mutex_);
    while (true) {
      ++sleeping_;
      wanted_.wait(lock, [this] { return stop_ || reader_.at_end(next_) || has_place(); });
      --sleeping_;
      if (!has_place()) return;
      read_a_place(lock);
    }
  }

  // Is there a microbatch to read, with fewer than `prefetch` ready or read?
  bool has_place() const { return !stop_ && ahead_.size() < prefetch_ && !reader_.at_end(next_); }

  // REQUIRES: has_place(); the lock is held, and is so afterwards.
  void read_a_place(std::unique_lock<std::mutex>& lock) {
    SlotPointer slot = free_.empty() ? nullptr : pop(free_);
    ahead_.emplace_back();
    const int64_t k = next_++;
    lock.unlock();
    Place place;
    try {
      if (!slot) slot = reader_.make_slot();
      reader_.read(k, *slot);
      place.slot = std::move(slot);
    } catch (...) {
      place.error = std::current_exception();
    }
    publish(k, std::move(place));
    lock.lock();
  }

  // Those before an error are in the hands of threads already; those after it are of no use.
  void publish(int64_t k, Place place) {
    std::unique_lock lock(mutex_);
    const bool failed = place.error != nullptr;
    const auto at = static_cast<size_t>(k - (next_ - static_cast<int64_t>(ahead_.size())));
    ahead_[at] = std::move(place);
    stop_ = stop_ || failed;
    const bool wake = waiting_ && at == 0;
    lock.unlock();  // or the consumer wakes up only to wait for it
    if (wake) filled_.notify_one();
    if (failed) wanted_.notify_all();
  }

  // Until the first place is decided: the consumer has nothing else to do, and reads too where a core is
  // left.
  void wait(std::unique_lock<std::mutex>& lock) {
    const auto decided = [this] { return ahead_.empty() ? reader_.at_end(next_) : ahead_.front().decided(); };
    if (decided()) return;
    const int64_t start = system_clock().monotonic_ns();
    while (helps_ && !decided() && has_place()) read_a_place(lock);
    waiting_ = true;
    filled_.wait(lock, decided);
    waiting_ = false;
    wait_ns_ += system_clock().monotonic_ns() - start;
  }

  // The next slot; null at the end.
  SlotPointer take() {
    std::unique_lock lock(mutex_);
    wait(lock);
    if (ahead_.empty()) return nullptr;
    if (ahead_.front().error) std::rethrow_exception(ahead_.front().error);  // it stays in its place
    SlotPointer slot = std::move(ahead_.front().slot);
    ahead_.pop_front();
    const bool wake = sleeping_ > 0;
    lock.unlock();
    if (wake) wanted_.notify_one();
    return slot;
  }

  // The same without a thread: all of the reading is waiting.
  SlotPointer read_now() {
    if (error_) std::rethrow_exception(error_);
    if (reader_.at_end(next_)) return nullptr;
    const int64_t start = system_clock().monotonic_ns();
    SlotPointer slot = free_.empty() ? reader_.make_slot() : pop(free_);
    try {
      reader_.read(next_, *slot);
    } catch (...) {
      error_ = std::current_exception();
      throw;
    }
    ++next_;
    wait_ns_ += system_clock().monotonic_ns() - start;
    return slot;
  }

  static SlotPointer pop(std::deque<SlotPointer>& from) {
    SlotPointer slot = std::move(from.front());
    from.pop_front();
    return slot;
  }

  const size_t prefetch_;
  const Reader reader_;
  std::deque<SlotPointer> held_;
  int64_t wait_ns_ = 0;
  std::exception_ptr error_;  // of read_now()

  std::mutex mutex_;
  std::condition_variable wanted_;  // to the threads: room for another batch, or stop
  std::condition_variable filled_;  // to the consumer: the first place is decided
  std::deque<Place> ahead_;         // microbatches up to next_, in their order
  std::deque<SlotPointer> free_;
  int64_t next_ = 0;  // which of the share's microbatches is to be read next
  int sleeping_ = 0;  // threads that wait for `wanted_`
  bool waiting_ = false, stop_ = false;
  bool helps_ = false;  // the consumer reads instead of waiting; set before its first wait
  std::vector<std::thread> threads_;
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
