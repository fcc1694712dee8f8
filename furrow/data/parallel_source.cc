#include "furrow/data/parallel_source.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <ctime>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/thread.h"

namespace furrow::data {
namespace {

// Rows of `fields` from `first` on.
std::vector<ArrayView> rows_of(const Source& source, std::span<const ArrayView> fields, size_t first,
                               size_t count) {
  std::vector<ArrayView> part(fields.begin(), fields.end());
  for (size_t f = 0; f < part.size(); ++f) {
    const size_t bytes = sample_bytes(source.fields()[f]);
    part[f].shape[0] = static_cast<int64_t>(count);
    part[f].bytes = part[f].bytes.subspan(first * bytes, count * bytes);
  }
  return part;
}

// Threads that start while it lives take no signals.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_{};
};

// What this thread has done so far, to be compared with what it has done later.
struct Done {
  int64_t waits = 0, core_ns = 0, now_ns = 0;

  static Done by_now() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    timespec core{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &core);
    return {usage.ru_nvcsw, core.tv_sec * 1'000'000'000 + core.tv_nsec, system_clock().monotonic_ns()};
  }
  // For anything but a core: who only had to leave it to others has not waited.
  int64_t waited_ns_since(const Done& before) const {
    return waits == before.waits ? 0 : now_ns - before.now_ns - (core_ns - before.core_ns);
  }
};

}  // namespace

// The one piece of work at a time; all but `threads` and `turn` is guarded by `mutex`.
struct ReaderPool::State {
  std::mutex turn;  // held by the caller that is served
  std::mutex mutex;
  std::condition_variable wanted, finished;
  const std::function<void(size_t)>* piece = nullptr;
  size_t pieces = 0, next = 0, running = 0;
  size_t failed = std::numeric_limits<size_t>::max();  // the lowest piece that threw
  std::exception_ptr error;
  bool stop = false;
  bool awake = false;     // all were woken for this run
  bool worth_it = false;  // the run before took long; of the caller alone
  int64_t begin_ns = 0;
  std::vector<std::thread> threads;

  // All are woken when the run is seen to take long.
  void wake(bool now) {
    if (awake || next >= pieces) return;
    if (!now && system_clock().monotonic_ns() - begin_ns < kWorthWakingNs) return;
    awake = true;
    wanted.notify_all();
  }

  // Takes pieces until none is left.
  void work(std::unique_lock<std::mutex>& lock) {
    while (next < pieces) {
      wake(false);
      const size_t mine = next++;
      ++running;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        (*piece)(mine);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      --running;
      if (thrown && mine < failed) {
        failed = mine;
        error = thrown;
      }
    }
    if (running == 0) finished.notify_one();
  }

  void serve() {
    set_thread_name("furrow-reader");
    std::unique_lock lock(mutex);
    while (true) {
      wanted.wait(lock, [this] { return stop || next < pieces; });
      if (stop) return;
      work(lock);
    }
  }
};

ReaderPool::ReaderPool(int readers) : state_(std::make_unique<State>()) {
  FURROW_CHECK(readers >= 1, "no readers");
  const NoSignals none;
  for (int i = 1; i < readers; ++i) state_->threads.emplace_back([state = state_.get()] { state->serve(); });
}

ReaderPool::~ReaderPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wanted.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ReaderPool::readers() const { return static_cast<int>(state_->threads.size()) + 1; }

void ReaderPool::run(size_t pieces, const std::function<void(size_t)>& piece) {
  State& state = *state_;
  const std::unique_lock turn(state.turn, std::try_to_lock);
  if (!turn) {
    for (size_t i = 0; i < pieces; ++i) piece(i);
    return;
  }
  std::unique_lock lock(state.mutex);
  state.piece = &piece;
  state.pieces = pieces;
  state.next = 0;
  state.failed = std::numeric_limits<size_t>::max();
  state.error = nullptr;
  state.awake = state.threads.empty();
  state.begin_ns = system_clock().monotonic_ns();
  state.wake(state.worth_it);
  state.work(lock);
  state.finished.wait(lock, [&state] { return state.running == 0; });
  state.pieces = state.next = 0;
  state.worth_it = system_clock().monotonic_ns() - state.begin_ns >= kWorthWakingNs;
  if (state.error) std::rethrow_exception(state.error);
}

void run_on_threads(int threads, const std::string& name, const std::function<void()>& work) {
  std::vector<std::jthread> others;
  {
    const NoSignals none;
    for (int i = 1; i < threads; ++i) {
      others.emplace_back([&name, &work] {
        set_thread_name(name);
        work();
      });
    }
  }
  work();
}

size_t ParallelSource::pieces_of(size_t rows) const {
  // A few for each reader, so that one that waits long does not hold up the rest.
  constexpr size_t kPiecesPerReader = 4;
  const size_t most = std::min(rows, static_cast<size_t>(pool_->readers()) * kPiecesPerReader);
  const int64_t row_ns = row_ns_.load(std::memory_order_relaxed);
  if (row_ns >= kLeastPieceNs) return most;
  return std::min(most, static_cast<size_t>(row_ns) * rows / static_cast<size_t>(kLeastPieceNs));
}

// Rows of a disk come and go: what took long is taken to do so again.
void ParallelSource::took(int64_t ns, size_t rows) const {
  const int64_t each = ns / static_cast<int64_t>(rows), before = row_ns_.load(std::memory_order_relaxed);
  row_ns_.store(before == kUnknown ? each : std::max(each, before / 2), std::memory_order_relaxed);
}

// Returns what is worth sharing of the time it took.
int64_t ParallelSource::timed_read(std::span<const int64_t> indices, std::span<const int64_t> positions,
                                   std::span<const ArrayView> fields) const {
  const bool work = cost_ == RowCost::kWork;
  const Done before = work ? Done{.now_ns = system_clock().monotonic_ns()} : Done::by_now();
  source_->read_at(indices, positions, fields);
  if (work) return system_clock().monotonic_ns() - before.now_ns;
  return Done::by_now().waited_ns_since(before);
}

void ParallelSource::read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
                             std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  if (indices.empty()) return;
  const size_t rows = indices.size(), pieces = pieces_of(rows);
  if (pieces <= 1) return took(timed_read(indices, positions, fields), rows);
  std::atomic<int64_t> ns = 0;
  pool_->run(pieces, [&](size_t piece) {
    const size_t first = rows * piece / pieces, count = rows * (piece + 1) / pieces - first;
    const auto at = positions.empty() ? positions : positions.subspan(first, count);
    ns += timed_read(indices.subspan(first, count), at, rows_of(*this, fields, first, count));
  });
  took(ns, rows);
}

}  // namespace furrow::data
