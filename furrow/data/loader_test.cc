#include "furrow/data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <semaphore>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using ::testing::HasSubstr;

// Sample i is i times 1, 2, 3, and target i * i.  Counts its reads.
class CountingSource : public Source {
 public:
  explicit CountingSource(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 7; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    check_read(*this, indices, views);
    const auto input = views[0].as<float>();
    const auto target = views[1].as<int64_t>();
    for (size_t row = 0; row < indices.size(); ++row) {
      for (size_t k = 0; k < 3; ++k)
        input[row * 3 + k] = static_cast<float>(indices[row] * static_cast<int64_t>(k + 1));
      target[row] = indices[row] * indices[row];
    }
    reader = ::gettid();
    ++reads;
  }
  mutable std::atomic<int> reads{0};
  mutable std::atomic<pid_t> reader{0};  // the thread that read last

 private:
  int64_t size_;
  std::vector<Field> fields_{{"input", DType::kF32, {3}}, {"target", DType::kI64, {}}};
};

// Everything that a consumer can see of one batch.
struct Seen {
  std::vector<int64_t> ids, indices, targets;
  std::vector<float> inputs;
  Shape shape;
  int64_t weight = 0;
  friend bool operator==(const Seen&, const Seen&) = default;
};

Seen copy(const Batch& batch) {
  const auto input = batch.arrays.at(0).as<float>();
  const auto target = batch.arrays.at(1).as<int64_t>();
  return {batch.sample_ids,      batch.indices, {target.begin(), target.end()}, {input.begin(), input.end()},
          batch.arrays[0].shape, batch.weight};
}

// Up to `count` batches, holding `hold` of them at a time.
std::vector<Seen> collect(Loader& loader, size_t count, size_t hold = 1) {
  std::vector<Seen> seen;
  size_t held = 0;
  while (seen.size() < count) {
    const Batch* batch = loader.next();
    if (batch == nullptr) break;
    seen.push_back(copy(*batch));
    if (++held == hold) {
      loader.release();
      --held;
    }
  }
  return seen;
}

// The oracle: positions cut by hand, read directly.
std::vector<Seen> direct(const Source& source, const SampleOrder& order, const LoaderOptions& options,
                         size_t count) {
  std::vector<Seen> seen;
  int64_t position = options.position;
  for (size_t k = 0; k < count && (options.end < 0 || position < options.end); ++k) {
    int64_t rows = options.sizes[k % options.sizes.size()];
    if (options.end >= 0) rows = std::min(rows, options.end - position);
    Batch batch;
    batch.indices.resize(static_cast<size_t>(rows));
    order.indices(position, batch.indices);
    for (int64_t row = 0; row < rows; ++row) batch.sample_ids.push_back(position + row);
    testing::ReadBuffers buffers(source, static_cast<size_t>(rows));
    source.read(batch.indices, buffers.views);
    batch.arrays = buffers.views;
    batch.weight = rows;
    seen.push_back(copy(batch));
    position += rows;
  }
  return seen;
}

TEST(Loader, EqualsDirectReadsForAnyPrefetchAndHold) {
  const CountingSource source(53);
  const SampleOrder order(11, 53, true);
  for (const int64_t end : {-1, 200, 7}) {
    const LoaderOptions options{.sizes = {8, 8, 3}, .position = 5, .end = end};
    const std::vector<Seen> expected = direct(source, order, options, 40);
    for (const int prefetch : {0, 1, 2, 4, 9}) {
      for (const size_t hold : {1, 3}) {
        LoaderOptions tried = options;
        tried.prefetch = prefetch;
        Loader loader(source, order, tried);
        EXPECT_EQ(collect(loader, 40, hold), expected) << "prefetch " << prefetch << " hold " << hold;
      }
    }
  }
}

// Read by several threads; the third batch that is begun ends after a fourth, where so many are read ahead
// that a fourth is begun whichever was the third.
class SharedSource : public CountingSource {
 public:
  SharedSource(int64_t size, int readers, int prefetch)
      : CountingSource(size), readers_(readers), held_(prefetch >= 4 ? 3 : 0) {}
  int readers() const override { return readers_; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    std::unique_lock lock(mutex_);
    if (++begun_ == held_) changed_.wait(lock, [this] { return done_ >= 3; });
    lock.unlock();
    CountingSource::read(indices, views);
    lock.lock();
    ++done_;
    changed_.notify_all();
  }

 private:
  int readers_, held_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int begun_ = 0, done_ = 0;
};

TEST(Loader, EqualsDirectReadsWithSeveralReaders) {
  const SampleOrder order(11, 53, true);
  for (const int64_t end : {-1, 200, 7}) {
    const LoaderOptions options{.sizes = {8, 8, 3}, .position = 5, .end = end};
    const std::vector<Seen> expected = direct(CountingSource(53), order, options, 40);
    for (const int readers : {2, 3, 9}) {
      for (const int prefetch : {2, 3, 4, 9}) {
        const SharedSource source(53, std::min(readers, prefetch), prefetch);
        LoaderOptions tried = options;
        tried.prefetch = prefetch;
        Loader loader(source, order, tried);
        EXPECT_EQ(collect(loader, 40, 3), expected) << readers << " readers, prefetch " << prefetch;
      }
    }
  }
}

TEST(Loader, AnotherSeedIsSeen) {  // negative control of the equality above
  const CountingSource source(53);
  Loader a(source, SampleOrder(11, 53, true), {.sizes = {8}}),
      b(source, SampleOrder(12, 53, true), {.sizes = {8}});
  EXPECT_NE(collect(a, 5), collect(b, 5));
}

TEST(Loader, ResumesFromAnyPosition) {
  const CountingSource source(29);
  const SampleOrder order(2, 29, true);
  Loader whole(source, order, {.sizes = {4}});
  const std::vector<Seen> all = collect(whole, 30);
  for (const size_t done : {1, 7, 8, 29}) {
    Loader rest(source, order, {.sizes = {4}, .position = static_cast<int64_t>(done) * 4});
    const std::vector<Seen> got = collect(rest, 30 - done);
    EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin() + static_cast<long>(done), all.end()));
  }
}

TEST(Loader, OneEpochHasEverySampleOnce) {
  const CountingSource source(61);
  Loader loader(source, SampleOrder(3, 61, true), {.sizes = {7}, .end = 61});
  std::multiset<int64_t> seen;
  while (const Batch* batch = loader.next()) {
    seen.insert(batch->indices.begin(), batch->indices.end());
    loader.release();
  }
  ASSERT_EQ(seen.size(), 61u);
  EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 61u);
  EXPECT_EQ(loader.next(), nullptr);  // and stays at its end
}

TEST(Loader, SlotsAreAlignedAndReused) {
  const CountingSource source(100);
  Loader loader(source, SampleOrder(0, 100, false), {.sizes = {8}, .prefetch = 2});
  std::set<const void*> places;
  for (int i = 0; i < 200; ++i) {
    const Batch* batch = loader.next();
    for (const ArrayView& view : batch->arrays) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(view.bytes.data()) % 64, 0u);
    }
    places.insert(batch->arrays[0].bytes.data());
    loader.release();
  }
  EXPECT_LE(places.size(), 3u);
}

TEST(Loader, HeldBatchesStayAsTheyAre) {
  const CountingSource source(100);
  Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = 3});
  std::vector<const Batch*> held;
  std::vector<Seen> then;
  for (int i = 0; i < 6; ++i) {
    held.push_back(loader.next());
    then.push_back(copy(*held.back()));
  }
  for (size_t i = 0; i < held.size(); ++i) EXPECT_EQ(copy(*held[i]), then[i]);
  for (size_t i = 0; i < held.size(); ++i) loader.release();
  EXPECT_THROW(loader.release(), Error);
}

TEST(Loader, ReleaseGivesBackTheOldest) {
  for (const int prefetch : {0, 2}) {
    const CountingSource source(100);
    Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = prefetch});
    std::deque<std::pair<const Batch*, Seen>> held;
    for (int i = 0; i < 60; ++i) {
      const Batch* batch = loader.next();
      held.emplace_back(batch, copy(*batch));
      if (held.size() < 4) continue;
      for (const auto& [still, then] : held) EXPECT_EQ(copy(*still), then) << "batch " << i;
      loader.release();
      held.pop_front();
    }
  }
}

TEST(Loader, CountsItsMemoryAsData) {
  const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
  {
    const CountingSource source(100);
    Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = 0});
    loader.next();
    EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes - before, 8 * (12 + 8));
  }
  EXPECT_EQ(memory_usage(MemoryKind::kData).current_bytes, before);
}

// Whoever reads first waits for another reader, up to a minute in all; who it was is written down.
class CompanySource : public CountingSource {
 public:
  using CountingSource::CountingSource;
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    {
      std::unique_lock lock(mutex_);
      readers_.insert(::gettid());
      changed_.notify_all();
      const auto go = [this] { return given_up_ || readers_.size() > 1; };
      if (!changed_.wait_for(lock, std::chrono::minutes(1), go)) given_up_ = true;
    }
    CountingSource::read(indices, views);
  }
  std::set<pid_t> seen() const {
    const std::lock_guard lock(mutex_);
    return readers_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable std::set<pid_t> readers_;
  mutable bool given_up_ = false;
};

TEST(Loader, AConsumerThatWouldWaitReads) {
  const CompanySource source(100);
  const SampleOrder order(0, 100, true);
  const std::vector<Seen> expected = direct(CountingSource(100), order, {.sizes = {8}}, 9);
  Loader loader(source, order, {.sizes = {8}, .prefetch = 2});
  EXPECT_EQ(collect(loader, 9), expected);
  EXPECT_TRUE(source.seen().contains(::gettid()));
  EXPECT_EQ(source.seen().size(), 2u);
}

// Blocks in read() until it is let go; tells when a reader has arrived.
class GatedSource : public CountingSource {
 public:
  using CountingSource::CountingSource;
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    lock.unlock();
    CountingSource::read(indices, views);
  }
  void await_reader() const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }
  void open() const {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable int waiting_ = 0;
  mutable bool open_ = false;
};

TEST(Loader, StopsAfterAtMostOneRead) {
  const GatedSource source(100);
  {
    Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = 50});
    source.await_reader();
    std::thread opener([&] { source.open(); });
    opener.join();
  }
  EXPECT_LE(source.reads, 50);
}

// Its reads take some time, and are written down; one begins by waiting, for a minute at most.
class TimedSource : public CountingSource {
 public:
  static constexpr int64_t kReadNs = 10'000'000;
  struct Times {
    int64_t begin = 0, end = 0;
  };

  // `closed`: the position of the read that waits until another has ended or it is let go.
  explicit TimedSource(int64_t closed) : CountingSource(100), closed_(closed) {}
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> views) const override {
    const int64_t begin = now();
    if (positions[0] == closed_) {
      begun_.release();
      static_cast<void>(open_.try_acquire_for(std::chrono::minutes(1)));
    }
    for (const int64_t start = now(); now() < start + kReadNs;) std::this_thread::yield();
    CountingSource::read(indices, views);
    {
      const std::lock_guard lock(mutex_);
      times_[positions[0]] = {begin, now()};
    }
    if (positions[0] != closed_) open();
  }
  void await_closed() const { begun_.acquire(); }
  void open() const { open_.release(); }
  // Of the read of the batch at a position.
  Times times(int64_t position) const {
    const std::lock_guard lock(mutex_);
    return times_.at(position);
  }
  static int64_t now() { return system_clock().monotonic_ns(); }

 private:
  const int64_t closed_;
  mutable std::binary_semaphore begun_{0};
  mutable std::counting_semaphore<> open_{0};
  mutable std::mutex mutex_;
  mutable std::map<int64_t, Times> times_;
};

// How long next() takes.
int64_t next_ns(Loader& loader) {
  const int64_t start = TimedSource::now();
  loader.next();
  return TimedSource::now() - start;
}

TEST(Loader, CountsReadingAsWaitWithoutAThread) {
  const TimedSource source(-1);
  Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = 0});
  int64_t read = 0, all = 0;
  for (const int64_t position : {0, 8, 16}) {
    const int64_t before = loader.wait_ns();
    all += next_ns(loader);
    const TimedSource::Times times = source.times(position);
    read += times.end - times.begin;
    EXPECT_GE(loader.wait_ns() - before, TimedSource::kReadNs);
    EXPECT_GE(loader.wait_ns(), read);
    EXPECT_LE(loader.wait_ns(), all);
  }
}

// The consumer reads the second batch, which is waiting too, then waits for the thread, which is at the
// first.
TEST(Loader, CountsTheWaitForASlowSource) {
  const TimedSource source(0);
  Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = 2});
  source.await_closed();
  EXPECT_EQ(loader.wait_ns(), 0);
  const int64_t all = next_ns(loader), waited = loader.wait_ns();
  EXPECT_GE(waited, source.times(0).end - source.times(8).begin);
  EXPECT_GE(waited, 2 * TimedSource::kReadNs);
  EXPECT_LE(waited, all);
}

// The thread is at the second batch, so the first is there.
TEST(Loader, CountsNoWaitForWhatIsReady) {
  const TimedSource source(8);
  Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = 2});
  source.await_closed();
  loader.next();
  EXPECT_EQ(loader.wait_ns(), 0);
}

// Fails at the samples of positions `at` on.
class FailingSource : public CountingSource {
 public:
  FailingSource(int64_t size, int64_t at, bool known) : CountingSource(size), at_(at), known_(known) {}
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> views) const override {
    if (positions[0] == at_ && known_) throw Error(ErrorCode::kDataLoss, "the disk is gone");
    if (positions[0] == at_) throw std::runtime_error("unforeseen");
    CountingSource::read(indices, views);
  }

 private:
  int64_t at_;
  bool known_;
};

TEST(Loader, CarriesAnExceptionToItsPlace) {
  for (const int prefetch : {0, 1, 4}) {
    const FailingSource source(100, 24, true);
    Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = prefetch});
    EXPECT_EQ(collect(loader, 3).size(), 3u);
    for (int again = 0; again < 2; ++again) {
      try {
        loader.next();
        FAIL() << "no exception with prefetch " << prefetch;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
        EXPECT_THAT(error.what(), HasSubstr("positions 24 to 31: the disk is gone"));
      }
    }
    const FailingSource other(100, 0, false);
    Loader unforeseen(other, SampleOrder(0, 100, true), {.sizes = {8}, .prefetch = prefetch});
    EXPECT_THROW(unforeseen.next(), std::runtime_error);
  }
}

// Fails at the samples of batch 3, which is read beside others.
class FailingPart : public CountingSource {
 public:
  using CountingSource::CountingSource;
  int readers() const override { return 4; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    if (indices[0] == 24) throw Error(ErrorCode::kDataLoss, "the disk is gone");
    CountingSource::read(indices, views);
  }
};

TEST(Loader, CarriesAnExceptionToItsPlaceAmongReaders) {
  for (int round = 0; round < 20; ++round) {
    const FailingPart source(100);
    Loader loader(source, SampleOrder(0, 100, false), {.sizes = {8}, .prefetch = 4});
    EXPECT_EQ(collect(loader, 3).size(), 3u);
    for (int again = 0; again < 2; ++again) {
      try {
        loader.next();
        FAIL() << "no exception";
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr("positions 24 to 31: the disk is gone"));
      }
    }
  }
}

// Does a thread of this process wait for something?  Not when it merely has no core.
bool sleeps(pid_t thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string text;
  std::getline(file, text);
  return text.substr(text.rfind(')') + 1, 2) == " S";
}

// One batch is held while the reader runs as far ahead as it may: memory is then all that it ever needs.
TEST(Loader, ABudgetLimitsWhatIsPreparedAhead) {
  const CountingSource source(100);  // 20 bytes a sample, 160 a batch of 8
  const std::vector<Seen> expected = direct(source, SampleOrder(0, 100, true), {.sizes = {8}}, 30);
  for (const int slots : {1, 2, 3, 10, 600}) {  // held and ahead; at most 1 + prefetch
    const int ahead = std::min(slots - 1, 9);
    source.reads = 0;
    const int64_t before = memory_usage(MemoryKind::kData).current_bytes;
    reset_memory_peaks();
    Loader loader(source, SampleOrder(0, 100, true),
                  {.sizes = {8}, .prefetch = 9, .memory_budget = static_cast<uint64_t>(160 * slots + 159)});
    ASSERT_NE(loader.next(), nullptr);
    while (source.reads < 1 + ahead || (ahead > 0 && !sleeps(source.reader))) std::this_thread::yield();
    loader.release();
    EXPECT_EQ(collect(loader, 29), std::vector<Seen>(expected.begin() + 1, expected.end()));
    EXPECT_EQ(memory_usage(MemoryKind::kData).peak_bytes - before, 160 * (1 + ahead)) << slots;
  }
  try {
    Loader loader(source, SampleOrder(0, 100, true), {.sizes = {8, 8}, .memory_budget = 319});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("2 microbatches of one step need 320 B"));
  }
}

TEST(Loader, RefusesNonsense) {
  const CountingSource source(10);
  EXPECT_THROW(Loader(source, SampleOrder(0, 10, true), {.sizes = {}}), Error);
  EXPECT_THROW(Loader(source, SampleOrder(0, 10, true), {.sizes = {4, 0}}), Error);
  EXPECT_THROW(Loader(source, SampleOrder(0, 11, true), {.sizes = {4}}), Error);
  EXPECT_THROW(Loader(source, SampleOrder(0, 10, true), {.sizes = {4}, .position = -1}), Error);
  EXPECT_THROW(Loader(source, SampleOrder(0, 10, true), {.sizes = {4}, .prefetch = -1}), Error);
}

}  // namespace
}  // namespace furrow::data
