#include "furrow/observe/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"

namespace furrow::observe {
namespace {

// Open-file-description locks: held by one open file rather than by a process, so that two run folders of one
// process exclude each other as well, and one can be asked about without being taken.
struct flock whole_file(int16_t type) {
  struct flock lock;
  std::memset(&lock, 0, sizeof(lock));
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

bool lacks_locks(int reason) { return reason == ENOLCK || reason == ENOSYS || reason == EOPNOTSUPP; }

[[noreturn]] void throw_busy(const std::string& folder) {
  throw Error(
      ErrorCode::kUnavailable,
      fmt::format("another process is writing the run {}: wait for it, or give another folder", folder));
}

struct stat status_of(const std::string& folder) {
  struct stat status = {};
  if (::stat(folder.c_str(), &status) != 0) throw errno_error(errno, "lock", folder);
  return status;
}

// A name of this kernel and network namespace alone, whatever path leads to the folder.
std::pair<sockaddr_un, socklen_t> socket_name(const std::string& folder) {
  const struct stat status = status_of(folder);
  const std::string name = fmt::format("furrow run {}/{}", status.st_dev, status.st_ino);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())};
}

Descriptor new_socket() { return Descriptor(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)); }

// None: another process of this host has it.
Descriptor take_socket(const std::string& folder) {
  const auto [address, length] = socket_name(folder);
  Descriptor socket = new_socket();
  if (socket.open() && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0)
    return socket;
  if (errno == EADDRINUSE) return {};
  throw errno_error(errno, "lock", folder);
}

bool is_socket_taken(const std::string& folder) {
  const auto [address, length] = socket_name(folder);
  const Descriptor socket = new_socket();
  return socket.open() && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0;
}

// Where this process's sockets are known: equal for all that see each other's.
std::string this_host() {
  struct stat network = {};
  ::stat("/proc/self/ns/net", &network);
  std::string boot;
  try {
    boot = trim(read_file("/proc/sys/kernel/random/boot_id"));
  } catch (const Error&) {  // then name and network tell
  }
  return fmt::format("host {}\nboot {}\nnetwork {}\n", host_name(), boot, network.st_ino);
}

std::string owner_path(const std::string& folder) { return folder + "/.owner"; }

// False: there is one.
bool create_owner(const std::string& path, const std::string& text) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file.open() && errno == EEXIST) return false;
  if (!file.open()) throw errno_error(errno, "write", path);
  try {
    write_all(file.get(), std::as_bytes(std::span(text)), path);
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
  return true;
}

[[noreturn]] void throw_owned(const std::string& folder, const std::string& owner, int reason) {
  const std::string who = join(split(trim(owner), '\n'), ", ");
  throw Error(
      ErrorCode::kUnavailable,
      fmt::format("the run {} was being written by {}, and its file system has no locks ({}) that "
                  "would tell whether it still is: wait for it, or, once that process is gone, remove "
                  "{}",
                  folder, who.empty() ? "an unknown process" : who, std::strerror(reason),
                  owner_path(folder)));
}

}  // namespace

int lock_whole_file(int descriptor, int16_t type) {
  struct flock lock = whole_file(type);
  return ::fcntl(descriptor, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

RunLock::RunLock(const std::string& folder, FileLock lock) {
  const std::string path = folder + "/.lock";
  file_ = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file_.open()) throw errno_error(errno, "lock", path);
  const int reason = lock(file_.get(), F_WRLCK);
  if (reason == EAGAIN || reason == EACCES) throw_busy(folder);
  if (lacks_locks(reason))
    take_without_locks(folder, reason);
  else if (reason != 0)
    throw errno_error(reason, "lock", path);
}

void RunLock::take_without_locks(const std::string& folder, int reason) {
  socket_ = take_socket(folder);
  if (!socket_.open()) throw_busy(folder);
  const std::string host = this_host(), text = host + fmt::format("pid {}\n", process_id());
  if (!create_owner(owner_path(folder), text)) {
    const std::string before = read_file(owner_path(folder));
    if (!before.starts_with(host)) throw_owned(folder, before, reason);
    write_file_atomic(owner_path(folder), text);  // its writer is dead: the socket was free
  }
  owner_ = owner_path(folder);
  log_info(fmt::format("the file system of {} has no locks ({}): {} says who writes the run", folder,
                       std::strerror(reason), owner_));
}

RunLock::RunLock(RunLock&& other) noexcept
    : file_(std::move(other.file_)),
      socket_(std::move(other.socket_)),
      owner_(std::exchange(other.owner_, {})) {}

RunLock::~RunLock() {
  if (!owner_.empty()) ::unlink(owner_.c_str());
}

bool RunLock::is_held(const std::string& folder) {
  const Descriptor file(::open((folder + "/.lock").c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open()) return false;
  struct flock lock = whole_file(F_RDLCK);
  const bool locked = ::fcntl(file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  if (locked || !path_exists(owner_path(folder))) return locked;
  return !read_file(owner_path(folder)).starts_with(this_host()) || is_socket_taken(folder);
}

}  // namespace furrow::observe
