// A thread that takes no signals: those are for the program's main thread.
#pragma once

#include <csignal>
#include <functional>
#include <string>
#include <thread>

#include "furrow/base/thread.h"

namespace furrow::comm {

inline std::jthread make_silent_thread(std::string name, std::function<void(std::stop_token)> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited by the new thread
  std::jthread thread = make_thread(std::move(name), std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace furrow::comm
