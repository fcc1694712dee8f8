#include "apps/furrow/signals.h"

#include <atomic>
#include <csignal>

namespace furrow::app {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
std::atomic<CancelToken*> active{nullptr};

bool is_ignored(int number) {
  struct sigaction current = {};
  return ::sigaction(number, nullptr, &current) == 0 && current.sa_handler == SIG_IGN;
}

void restore_defaults() {
  for (const int number : kSignals) {
    if (!is_ignored(number)) std::signal(number, SIG_DFL);
  }
}

// A closed terminal says so twice, by the system and by the shell: after the first signal it is no second
// wish.
void on_signal(int number) {
  restore_defaults();
  std::signal(SIGHUP, SIG_IGN);
  if (CancelToken* token = active.load()) token->cancel(number);
}

}  // namespace

SignalScope::SignalScope(CancelToken* token) {
  active = token;
  for (const int number : kSignals) {
    if (number != SIGHUP || !is_ignored(number)) std::signal(number, on_signal);
  }
}

SignalScope::~SignalScope() {
  restore_defaults();
  active = nullptr;
}

}  // namespace furrow::app
