// SIGINT and SIGTERM ask the run to save and stop; a second one ends the process at once.
#pragma once

#include "furrow/base/clock.h"

namespace furrow::app {

// While it lives, both signals set `token` with their number.  One at a time in a process.
class SignalScope {
 public:
  explicit SignalScope(CancelToken* token);
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;
};

}  // namespace furrow::app
