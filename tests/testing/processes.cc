#include "tests/testing/processes.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <tuple>

namespace furrow::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

[[noreturn]] void exec_child(const std::vector<std::string>& command, const Variables& environment, int out,
                             int err) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  _exit(127);
}

// False at the end of the pipe.
bool drain(int descriptor, std::string& text) {
  char buffer[4096];
  const ssize_t count = read(descriptor, buffer, sizeof buffer);
  if (count > 0) text.append(buffer, static_cast<size_t>(count));
  return count > 0;
}

}  // namespace

int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Processes::~Processes() {
  for (One& one : all_) {
    if (!one.over) {
      kill(one.pid, SIGKILL);
      waitpid(one.pid, nullptr, 0);
    }
    if (one.out >= 0) close(one.out);
    if (one.err >= 0) close(one.err);
  }
}

size_t Processes::start(const std::vector<std::string>& command, const Variables& environment) {
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid == 0) exec_child(command, environment, out[1], err[1]);
  close(out[1]);
  close(err[1]);
  One one;
  one.pid = pid;
  one.out = out[0];
  one.err = err[0];
  all_.push_back(std::move(one));
  return all_.size() - 1;
}

void Processes::send(size_t index, int signal) const { kill(all_[index].pid, signal); }

// Takes what the processes write, and the status of those whose output has ended.
void Processes::read_all(int timeout_ms) {
  std::vector<pollfd> polls;
  for (const One& one : all_) {
    polls.push_back({one.out, POLLIN, 0});
    polls.push_back({one.err, POLLIN, 0});
  }
  poll(polls.data(), polls.size(), timeout_ms);
  for (size_t i = 0; i < all_.size(); ++i) {
    One& one = all_[i];
    for (const auto& [descriptor, text, events] :
         {std::tuple{&one.out, &one.ended.out, short{polls[2 * i].revents}},
          std::tuple{&one.err, &one.ended.err, short{polls[2 * i + 1].revents}}}) {
      if (*descriptor < 0 || events == 0 || drain(*descriptor, *text)) continue;
      close(*descriptor);
      *descriptor = -1;
    }
    if (one.over || one.out >= 0 || one.err >= 0) continue;
    int status = 0;
    waitpid(one.pid, &status, 0);
    one.over = true;
    one.ended.at_ns = monotonic_ns();
    if (WIFEXITED(status)) one.ended.exit_status = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) one.ended.signal = WTERMSIG(status);
  }
}

bool Processes::await_output(size_t index, const std::string& text) {
  const int64_t deadline = monotonic_ns() + 60 * kSecond;
  while (all_[index].ended.out.find(text) == std::string::npos) {
    if (all_[index].over || monotonic_ns() > deadline) return false;
    read_all(100);
  }
  return true;
}

Ended Processes::await_end(size_t index) {
  const int64_t deadline = monotonic_ns() + 120 * kSecond;
  while (!all_[index].over) {
    if (monotonic_ns() > deadline) throw std::runtime_error("a process does not end");
    read_all(100);
  }
  return all_[index].ended;
}

}  // namespace furrow::testing
