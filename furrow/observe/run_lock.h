// Who writes a run: a lock on its `.lock` that dies with the process.
//
// Some shared file systems have no locks (Lustre without -o flock, NFS without a lock service).  There a
// socket name keeps out other processes of this host and dies with the process, too, and `.owner` says to
// other hosts who writes.  What this host left in `.owner` is taken over, as the socket proves its writer
// dead; of what another host left nobody can tell, so that is an error that says what a person may do.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/base/descriptor.h"

namespace furrow::observe {

// Takes (F_WRLCK) a lock of the whole open file without waiting: 0, or errno.
using FileLock = int (*)(int descriptor, int16_t type);
int lock_whole_file(int descriptor, int16_t type);

// Move only.
class RunLock {
 public:
  // Error{unavailable}: another process writes the run, or may.
  explicit RunLock(const std::string& folder, FileLock lock = &lock_whole_file);
  ~RunLock();  // its files stay, but for `.owner`
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&&) = delete;

  static bool is_held(const std::string& folder);  // by any process; takes nothing

 private:
  void take_without_locks(const std::string& folder, int reason);

  Descriptor file_, socket_;
  std::string owner_;  // path of `.owner`; empty where the file system has locks
};

}  // namespace furrow::observe
