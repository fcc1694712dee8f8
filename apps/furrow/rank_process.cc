#include "apps/furrow/rank_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"

namespace furrow::app {
namespace {

std::vector<std::string> environment_of(const RankStart& start) {
  std::map<std::string, std::string> values;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) values[text.substr(0, equals)] = text.substr(equals + 1);
  }
  for (const auto& [name, value] : start.environment) values[name] = value;
  std::vector<std::string> entries;
  for (const auto& [name, value] : values) entries.push_back(fmt::format("{}={}", name, value));
  return entries;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// Everything that the child needs, made before the fork.
struct Image {
  std::vector<std::string> words, environment;
  pid_t launcher = ::getpid();
  int empty = -1, out = -1, errors = -1;
  cpu_set_t cores;
  bool bound = false;
};

void move_to(int from, int to) {
  if (from >= 0) ::dup2(from, to);
}

[[noreturn]] void become(const RankStart& start, Image& image) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != image.launcher) ::_exit(128 + SIGKILL);  // it died before the line above
  ::signal(SIGPIPE, SIG_DFL);
  if (image.bound) ::sched_setaffinity(0, sizeof(image.cores), &image.cores);
  move_to(image.empty, STDIN_FILENO);
  move_to(image.errors, STDERR_FILENO);
  move_to(image.out, STDOUT_FILENO);
  ::sigprocmask(SIG_SETMASK, &start.signals, nullptr);
  ::execve(start.program.c_str(), pointers(image.words).data(), pointers(image.environment).data());
  const std::string message = "furrow: error: cannot execute " + start.program + "\n";
  (void)!::write(STDERR_FILENO, message.data(), message.size());
  ::_exit(127);
}

struct Pipe {
  int reading = -1, writing = -1;
};

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw errno_error(errno, "make", "a pipe for the output of a rank");
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return {ends[0], ends[1]};
}

void close_if_open(int* descriptor) {
  if (*descriptor >= 0) ::close(*descriptor);
  *descriptor = -1;
}

}  // namespace

RankProcess::RankProcess(const RankStart& start) {
  Image image;
  image.words = start.words;
  image.words.insert(image.words.begin(), "furrow");
  image.environment = environment_of(start);
  CPU_ZERO(&image.cores);
  for (const int core : start.cores) CPU_SET(static_cast<size_t>(core), &image.cores);
  image.bound = !start.cores.empty();
  Pipe errors = make_pipe(), output;
  if (start.out == RankStart::Stdout::kOwnPipe) output = make_pipe();
  image.empty = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  image.errors = errors.writing;
  image.out = start.out == RankStart::Stdout::kWithErrors ? errors.writing : output.writing;
  errors_ = errors.reading;
  output_ = output.reading;
  pid_ = ::fork();
  const int reason = errno;
  if (pid_ == 0) become(start, image);
  if (pid_ > 0) ::setpgid(pid_, pid_);  // both do: neither may run ahead of it
  close_if_open(&image.empty);
  close_if_open(&errors.writing);
  close_if_open(&output.writing);
  if (pid_ > 0) return;
  close_errors();
  close_output();
  throw Error(ErrorCode::kResourceExhausted,
              errno_error(reason, "start", "the process of a rank").message() + ": use a smaller --nproc");
}

RankProcess::~RankProcess() {
  if (alive()) {
    signal(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  close_errors();
  close_output();
}

RankProcess::RankProcess(RankProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      errors_(std::exchange(other.errors_, -1)),
      output_(std::exchange(other.output_, -1)) {}

void RankProcess::close_errors() { close_if_open(&errors_); }
void RankProcess::close_output() { close_if_open(&output_); }

void RankProcess::signal(int number) const {
  if (alive()) ::kill(-pid_, number);
}

bool RankProcess::reap(RankEnd* end) {
  if (!alive()) return false;
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
    return false;
  signal(SIGKILL);  // while the group's number is still taken
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  *end =
      WIFSIGNALED(status) ? RankEnd{.signal = WTERMSIG(status)} : RankEnd{.exit_status = WEXITSTATUS(status)};
  return true;
}

}  // namespace furrow::app
