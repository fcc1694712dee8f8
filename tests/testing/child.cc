#include "tests/testing/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <stdexcept>

#include "furrow/base/file.h"

namespace furrow::testing {
namespace {

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int exec_command(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execv(arguments[0], arguments.data());
  return 127;
}

[[noreturn]] void become_child(const std::function<int()>& body, const ChildOptions& options, int out,
                               int err) {
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  for (const auto& [name, value] : options.environment) setenv(name.c_str(), value.c_str(), 1);
  const int status = body();
  fflush(nullptr);
  _exit(status);
}

// Reads what is there; false once the pipe is at its end.
bool drain(int descriptor, std::string* text) {
  char buffer[4096];
  const ssize_t n = read(descriptor, buffer, sizeof buffer);
  if (n > 0) text->append(buffer, static_cast<size_t>(n));
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void collect(pid_t pid, const ChildOptions& options, int out, int err, ChildResult* result) {
  const int64_t start = now_ms();
  bool out_open = true, err_open = true, killed = options.kill_signal == 0;
  while (out_open || err_open) {
    const int64_t elapsed = now_ms() - start;
    if (!killed && elapsed >= options.kill_after_ms) {
      kill(pid, options.kill_signal);
      killed = true;
    }
    if (elapsed >= options.timeout_ms) kill(pid, SIGKILL);
    const int64_t next = killed ? options.timeout_ms : options.kill_after_ms;
    pollfd polls[2] = {{out_open ? out : -1, POLLIN, 0}, {err_open ? err : -1, POLLIN, 0}};
    poll(polls, 2, static_cast<int>(std::max<int64_t>(1, next - elapsed)));
    if (polls[0].revents != 0) out_open = drain(out, &result->out);
    if (polls[1].revents != 0) err_open = drain(err, &result->err);
    if (options.watch) options.watch(pid, *result);
  }
  result->seconds = static_cast<double>(now_ms() - start) * 1e-3;
}

}  // namespace

ChildResult run_child(const std::vector<std::string>& command, const ChildOptions& options) {
  return run_forked([&command] { return exec_command(command); }, options);
}

ChildResult run_forked(const std::function<int()>& body, const ChildOptions& options) {
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  fflush(nullptr);  // not twice
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid == 0) become_child(body, options, out[1], err[1]);
  close(out[1]);
  close(err[1]);
  if (options.started) options.started(pid);
  ChildResult result;
  collect(pid, options, out[0], err[0], &result);
  close(out[0]);
  close(err[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status)) result.exit_status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

TemporaryFolder::TemporaryFolder() {
  const char* root = getenv("TMPDIR");
  std::string pattern = std::string(root != nullptr ? root : "/tmp") + "/furrow-test-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() { remove_all(path_); }

}  // namespace furrow::testing
