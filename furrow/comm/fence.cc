#include "furrow/comm/fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace furrow::comm {
namespace {

bool membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0) == 0; }

}  // namespace

bool can_be_fenced() {
  return membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) && membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED);
}

void fence_others() { membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED); }

}  // namespace furrow::comm
