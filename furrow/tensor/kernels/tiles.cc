#include "furrow/tensor/kernels/tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace furrow::tensor::kernels {
namespace {

// Linux gives a process the state of the tile registers only where it asks
// (Documentation/arch/x86/xstate.rst).
bool permitted() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  // The compiler's table is of CPUID and of XCR0: what the system does not save it does not list.
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

Tiles usable_tiles() {
  static const Tiles here = permitted() ? Tiles::kProcessor : Tiles::kNone;
  return TilesScope::or_else(here);
}

}  // namespace furrow::tensor::kernels
