#include "apps/furrow/signals.h"

#include <atomic>
#include <csignal>

namespace furrow::app {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};
std::atomic<CancelToken*> active{nullptr};

void restore_defaults() {
  for (const int number : kSignals) std::signal(number, SIG_DFL);
}

void on_signal(int number) {
  restore_defaults();
  if (CancelToken* token = active.load()) token->cancel(number);
}

}  // namespace

SignalScope::SignalScope(CancelToken* token) {
  active = token;
  for (const int number : kSignals) std::signal(number, on_signal);
}

SignalScope::~SignalScope() {
  restore_defaults();
  active = nullptr;
}

}  // namespace furrow::app
