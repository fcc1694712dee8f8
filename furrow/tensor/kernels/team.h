// The threads that share a caller's loops.  Between loops, and at a loop's end, they wait awake for some
// milliseconds, as a step has hundreds of loops and waking a thread takes longer than many of them; but from
// the first microseconds on they let any other thread have the processor that wants it, so that a machine
// with other work to do is not kept waiting by threads that wait (OpenMP's runtimes spin without that: on a
// shared machine they take the time from the very thread that they wait for).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace furrow::tensor::kernels {

class Team {
 public:
  using Task = void (*)(void* context, int member, int members);

  Team() = default;
  ~Team();  // its threads end
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // task(context, member, members) once by each of at most `wanted` members, the caller being member 0;
  // returns when all have ended.  There are fewer members where the system gives no more threads.  Not
  // reentrant, one caller at a time.  REQUIRES: task does not throw.
  void run(int wanted, Task task, void* context);

 private:
  struct Work {
    Task task = nullptr;  // null: the thread ends
    void* context = nullptr;
    int members = 0;
  };
  // A thread and its two words, which are equal while it has nothing to do; apart from other seats' words.
  struct alignas(128) Seat {
    std::atomic<uint32_t> given{0};
    Work work;  // written before `given` grows
    alignas(128) std::atomic<uint32_t> done{0};
    std::thread thread;
  };

  static void serve(Seat& seat, int member);
  static void give(Seat& seat, const Work& work);
  static void await(Seat& seat);
  int hire(int wanted);  // how many members there are

  std::vector<std::unique_ptr<Seat>> seats_;  // of members 1, 2, ...
};

}  // namespace furrow::tensor::kernels
