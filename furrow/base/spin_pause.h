// Tells a processor that this is a spinning loop.
#pragma once

namespace furrow {

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace furrow
