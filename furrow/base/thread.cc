#include "furrow/base/thread.h"

#include <pthread.h>

#include <cstdio>
#include <cstdlib>

namespace furrow {

void set_thread_name(const std::string& name) {
  constexpr size_t kLongest = 15;
  pthread_setname_np(pthread_self(), name.substr(0, kLongest).c_str());
}

std::jthread make_thread(std::string name, std::function<void(std::stop_token)> body) {
  return std::jthread([name = std::move(name), body = std::move(body)](std::stop_token stop) {
    set_thread_name(name);
    try {
      body(stop);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "error: thread %s: %s\n", name.c_str(), error.what());
      std::abort();
    }
  });
}

}  // namespace furrow
