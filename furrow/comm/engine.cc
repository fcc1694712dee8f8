#include "furrow/comm/engine.h"

#include "furrow/base/clock.h"
#include "furrow/base/thread.h"

namespace furrow::comm {

class Engine::State : public Work::State {
 public:
  explicit State(std::function<void()> job) : job_(std::move(job)) {}

  void run() noexcept {
    started_ns_.store(system_clock().monotonic_ns(), std::memory_order_relaxed);
    std::exception_ptr error;
    try {
      job_();
    } catch (...) {
      error = std::current_exception();
    }
    job_ = nullptr;
    finished_ns_.store(system_clock().monotonic_ns(), std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    done_.store(true, std::memory_order_release);
    changed_.notify_all();
  }

  bool done() const override { return done_.load(std::memory_order_acquire); }
  void wait() override {
    if (!done()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return done(); });
    }
    if (error_) std::rethrow_exception(error_);
  }
  int64_t started_ns() const override { return started_ns_.load(std::memory_order_relaxed); }
  int64_t finished_ns() const override { return finished_ns_.load(std::memory_order_relaxed); }

 private:
  std::function<void()> job_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::exception_ptr error_;
  std::atomic<bool> done_{false};
  std::atomic<int64_t> started_ns_{0}, finished_ns_{0};
};

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

Work Engine::submit(std::function<void()> job, bool may_inline) {
  auto state = std::make_shared<State>(std::move(job));
  if (may_inline && try_enter()) {
    const Turn turn{*this};
    state->run();
    return Work(std::move(state));
  }
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) {  // first: it may throw
    thread_ = make_thread(thread_name_, [this](const std::stop_token&) { serve(); });
  }
  queue_.push_back(state);
  load_.fetch_add(kQueued, std::memory_order_relaxed);
  changed_.notify_all();
  return Work(std::move(state));
}

bool Engine::take_turn() {
  uint64_t load = load_.load(std::memory_order_relaxed);
  while ((load & kBusy) == 0) {
    if (load_.compare_exchange_weak(load, (load | kBusy) - kQueued, std::memory_order_acquire)) return true;
  }
  return false;
}

void Engine::wake() {
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void Engine::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return queue_.empty() ? closing_ : take_turn(); });
    if (queue_.empty()) return;
    const std::shared_ptr<State> next = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    next->run();
    lock.lock();
    load_.fetch_sub(kBusy, std::memory_order_release);
  }
}

}  // namespace furrow::comm
