// What the library of fakes knows of its "device" memory and streams (fake_cuda.cc, fake_nccl.cc).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

// Of a library that is opened late, without memory that each thread would ask for at its first use.
#define FAKE_THREAD_LOCAL __attribute__((tls_model("initial-exec"))) thread_local

namespace fake {

// A thread with a queue.
class Stream {
 public:
  explicit Stream(int of_device = 0) : device(of_device), thread_([this] { serve(); }) {}
  ~Stream();  // runs what is queued
  void push(std::function<void()> work);

  const int device;

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool closing_ = false;
  std::thread thread_;
};

// The bytes behind a pointer of the host or of a device.
std::byte* see(const void* pointer);

// Nothing, from nowhere, is copied too.
void copy_bytes(void* to, const void* from, size_t bytes);

}  // namespace fake
