#include "furrow/tensor/kernels/team.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "furrow/base/spin_pause.h"

namespace furrow::tensor::kernels {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPauses = 200;  // 4..30 us, by processor: longer than most members differ by
constexpr int kPausesBetweenYields = 20;
constexpr std::chrono::milliseconds kAwake{10};       // longer than a hypervisor takes a processor away for
constexpr std::chrono::microseconds kOthersRan{100};  // a call to yield takes less than 1 where nobody waits

// Until `word` is no longer `old`.
void wait_while(const std::atomic<uint32_t>& word, uint32_t old) {
  const auto changes_within = [&](int pauses) {
    for (int i = 0; i < pauses; ++i) {
      if (word.load(std::memory_order_acquire) != old) return true;
      spin_pause();
    }
    return false;
  };
  if (changes_within(kPauses)) return;
  // Others that want the processor have had it when a call returns late: who sleeps is then woken sooner than
  // who goes on asking for a turn.
  Clock::time_point now = Clock::now();
  for (const Clock::time_point until = now + kAwake; now < until;) {
    const Clock::time_point asked = now;
    ::sched_yield();
    now = Clock::now();
    if (now - asked > kOthersRan) break;
    if (changes_within(kPausesBetweenYields)) return;
  }
  word.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::~Team() {
  for (const auto& seat : seats_) {
    give(*seat, Work{});
    seat->thread.join();
  }
}

void Team::give(Seat& seat, const Work& work) {
  seat.work = work;
  seat.given.store(seat.given.load(std::memory_order_relaxed) +
                   1);  // in one order with a sleeper's look at it
  seat.given.notify_one();
}

void Team::await(Seat& seat) {
  const uint32_t given = seat.given.load(std::memory_order_relaxed);
  wait_while(seat.done, given - 1);
}

void Team::serve(Seat& seat, int member) {
  ::pthread_setname_np(::pthread_self(), "furrow-team");
  for (uint32_t seen = 0;; ++seen) {
    wait_while(seat.given, seen);
    const Work work = seat.work;
    if (work.task == nullptr) return;
    work.task(work.context, member, work.members);
    seat.done.store(seen + 1);
    seat.done.notify_one();
  }
}

int Team::hire(int wanted) {
  try {
    while (static_cast<int>(seats_.size()) + 1 < wanted) {
      auto seat = std::make_unique<Seat>();
      const int member = static_cast<int>(seats_.size()) + 1;
      seats_.reserve(seats_.size() + 1);
      seat->thread = std::thread([where = seat.get(), member] { serve(*where, member); });
      seats_.push_back(std::move(seat));
    }
  } catch (const std::system_error&) {  // no more threads: those that there are do it all
  }
  return std::min(wanted, static_cast<int>(seats_.size()) + 1);
}

void Team::run(int wanted, Task task, void* context) {
  const int members = hire(wanted);
  const auto hired = [&](int member) -> Seat& { return *seats_[static_cast<size_t>(member) - 1]; };
  for (int member = 1; member < members; ++member) give(hired(member), Work{task, context, members});
  task(context, 0, members);
  for (int member = 1; member < members; ++member) await(hired(member));
}

}  // namespace furrow::tensor::kernels
