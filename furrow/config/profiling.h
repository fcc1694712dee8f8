// [profiling]: how much of the executed program is traced.
#pragma once

#include <cstdint>

#include "furrow/config/field.h"

namespace furrow::config {

struct Profiling {
  bool enable_profiling = false;
  int64_t trace_steps = 3;

  template <class V>
  static void fields(V& v) {
    v("enable_profiling", &Profiling::enable_profiling,
      {.doc = "Trace trace_steps whole steps into the run's trace.json, instead of one early step of it."});
    v("trace_steps", &Profiling::trace_steps,
      {.min = 1,
       .max = 10000,
       .only_if = "profiling.enable_profiling=true",
       .doc = "Steps in the trace, from the second step of the process on."});
  }
  friend bool operator==(const Profiling&, const Profiling&) = default;
};

}  // namespace furrow::config
