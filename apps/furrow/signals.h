// SIGINT, SIGTERM and SIGHUP (the terminal has closed) ask the run to save and stop; a second
// SIGINT or SIGTERM ends the process at once.  What is ignored from the start (nohup) stays so.
#pragma once

#include "furrow/base/clock.h"

namespace furrow::app {

// While it lives, these signals set `token` with their number.  One at a time in a process.
class SignalScope {
 public:
  explicit SignalScope(CancelToken* token);
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;
};

}  // namespace furrow::app
