#include "tests/testing/rank_job.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "furrow/base/file.h"

namespace furrow::testing {

Background::Background(std::vector<std::string> command, ChildOptions options) {
  options.started = [this](pid_t pid) { pid_ = pid; };
  thread_ = std::thread([this, command = std::move(command), options = std::move(options)] {
    result_ = run_child(command, options);
    ended_ns_ = steady_ns();
    ended_ = true;
  });
}

Background::~Background() {
  if (thread_.joinable()) thread_.join();
}

pid_t Background::pid() const {
  while (pid_ == 0 && !ended_) std::this_thread::yield();
  return pid_;
}

const ChildResult& Background::wait() {
  if (thread_.joinable()) thread_.join();
  return result_;
}

int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<pid_t> children_of(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/task/{}/children", pid, pid);
  std::vector<pid_t> children;
  if (!path_exists(path)) return children;
  std::istringstream words(read_file(path));
  for (pid_t child; words >> child;) children.push_back(child);
  return children;
}

bool runs(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/stat", pid);
  try {
    const std::string text = read_file(path);
    return text.find(") Z") == std::string::npos && text.find(") X") == std::string::npos;
  } catch (const Error&) {
    return false;
  }
}

std::vector<std::pair<std::string, std::string>> rank_environment(int rank, int ranks, int port) {
  const std::string size = std::to_string(ranks), number = std::to_string(rank);
  return {{"RANK", number},           {"LOCAL_RANK", number},       {"WORLD_SIZE", size},
          {"LOCAL_WORLD_SIZE", size}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", std::to_string(port)},
          {"OMP_NUM_THREADS", "1"},   {"FURROW_JOB_TOKEN", "test"}};
}

int free_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  if (::bind(descriptor, any, size) != 0 || ::getsockname(descriptor, any, &size) != 0)
    throw std::runtime_error("no free port on 127.0.0.1");
  ::close(descriptor);
  return ntohs(address.sin_port);
}

std::vector<std::string> shared_memory_names() {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored))
    if (!entry.path().filename().string().starts_with("vader_segment"))
      names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

bool wait_until(const std::function<bool()>& condition, double seconds) {
  const int64_t deadline = steady_ns() + static_cast<int64_t>(seconds * 1e9);
  while (!condition()) {
    if (steady_ns() > deadline) return false;
    ::usleep(1000);
  }
  return true;
}

}  // namespace furrow::testing
