#include "furrow/comm/descriptors.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace furrow::comm {
namespace {

uint64_t open_files_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

}  // namespace

void allow_descriptors(uint64_t wanted) noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

bool out_of_descriptors(int reason) { return reason == EMFILE || reason == ENFILE; }

Error descriptor_error(int reason, std::string_view action, uint64_t least) {
  const std::string by_connections = least > 0 ? "" : ", or set comm.connections lower";
  const std::string remedy =
      reason == EMFILE
          ? fmt::format(
                ": this process may have {} files and sockets open at once; raise that{} with `ulimit "
                "-n` (or LimitNOFILE, --ulimit nofile){}",
                open_files_limit(), least > 0 ? fmt::format(" to {}", least) : "", by_connections)
      : reason == ENFILE ? ": this machine has no more; raise fs.file-max, or start fewer processes"
                         : "";
  return Error(ErrorCode::kResourceExhausted,
               fmt::format("cannot {}: {}{}", action, std::strerror(reason), remedy));
}

std::optional<Error> lack_of_descriptors(uint64_t count, std::string_view action) {
  const SpareDescriptors free(count);
  if (free.count() == count) return std::nullopt;
  return descriptor_error(free.reason(),
                          fmt::format("{}, which takes {} more files and sockets where {} can be opened",
                                      action, count, free.count()),
                          open_files_limit() + count - free.count());
}

SpareDescriptors::SpareDescriptors(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    Socket one(eventfd(0, EFD_CLOEXEC));
    if (!one.open()) reason_ = errno;
    if (!one.open()) return;
    held_.push_back(std::move(one));
  }
}

}  // namespace furrow::comm
