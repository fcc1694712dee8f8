#include "apps/furrow/launcher.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>

#include "apps/furrow/launch_environment.h"
#include "apps/furrow/rank_output.h"
#include "apps/furrow/rank_process.h"
#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int64_t kMsNs = 1'000'000;
constexpr int64_t kAfterSecondSignalMs = 5000;

int64_t now_ns() { return system_clock().monotonic_ns(); }

void write_terminal(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody left to tell
    text.remove_prefix(static_cast<size_t>(written));
  }
}

std::string counted(int count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

// By its path, so that `ps` names the ranks; where the file has been replaced meanwhile, by what still runs.
std::string own_program() {
  constexpr const char* kSelf = "/proc/self/exe";
  std::array<char, 4096> buffer;
  const ssize_t length = ::readlink(kSelf, buffer.data(), buffer.size());
  const std::string path(buffer.data(), static_cast<size_t>(std::max<ssize_t>(length, 0)));
  return path_exists(path) ? path : kSelf;
}

std::string with_number(std::string word, int rank) {
  constexpr std::string_view kNumber = "{rank}";
  for (size_t at; (at = word.find(kNumber)) != std::string::npos;) {
    word.replace(at, kNumber.size(), std::to_string(rank));
  }
  return word;
}

// Takes the signals of the launcher as a descriptor while it lives.
class SignalDescriptor {
 public:
  SignalDescriptor() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCHLD}) ::sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, &before_);
    pipe_before_ = std::signal(SIGPIPE, SIG_IGN);
    descriptor_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (descriptor_ < 0) throw errno_error(errno, "open", "a signal descriptor");
  }
  ~SignalDescriptor() {
    ::close(descriptor_);
    std::signal(SIGPIPE, pipe_before_);
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  SignalDescriptor(const SignalDescriptor&) = delete;
  SignalDescriptor& operator=(const SignalDescriptor&) = delete;

  int descriptor() const { return descriptor_; }
  const sigset_t& before() const { return before_; }
  std::optional<int> next() const {
    signalfd_siginfo info;
    if (::read(descriptor_, &info, sizeof(info)) != sizeof(info)) return std::nullopt;
    return static_cast<int>(info.ssi_signo);
  }

 private:
  sigset_t before_;
  void (*pipe_before_)(int) = SIG_DFL;
  int descriptor_ = -1;
};

class Launch {
 public:
  explicit Launch(const LaunchRequest& request)
      : request_(request),
        output_(request.ranks, request.quiet ? [](std::string_view) {} : write_terminal),
        ends_(static_cast<size_t>(request.ranks)) {}
  Launched run();

 private:
  void start();
  RankStart start_of(int rank) const;
  void watch();
  void say_who_is_killed() const;
  void poll_once();
  void take_signals();
  void on_signal(int number);
  void reap();
  void on_end(int rank, const RankEnd& end);
  void read_from(int rank);
  void kill_after(int64_t ms) { kill_at_ns_ = std::min(kill_at_ns_, now_ns() + ms * kMsNs); }
  void signal_all(int number);
  void store_logs();
  bool asked_to_stop(const RankEnd& end) const;
  int cause() const;
  Launched outcome();
  std::string description(int rank) const;
  void print_other_errors(int first);

  const LaunchRequest& request_;
  SignalDescriptor signals_;
  RankOutput output_;
  std::vector<RankProcess> ranks_;
  std::vector<RankEnd> ends_;
  std::vector<int> failed_;  // ranks, as they ended
  int signal_ = 0, signals_taken_ = 0;
  bool killed_ = false;
  int64_t kill_at_ns_ = kNever;
};

Launched Launch::run() {
  start();
  watch();
  return outcome();
}

void Launch::start() {
  const std::vector<int> cores = usable_cores();
  if (core_count() < request_.ranks * std::max(1, request_.threads)) {
    log_warning(fmt::format("{} x {} share {}: expect less speed than with a core for each",
                            counted(request_.ranks, "rank"), counted(std::max(1, request_.threads), "thread"),
                            counted(core_count(), "core")));
  }
  const auto shares = shares_of_cores(cores, request_.ranks, std::max(1, request_.threads));
  const std::string port = std::to_string(free_loopback_port()), token = random_token();
  ranks_.reserve(static_cast<size_t>(request_.ranks));
  for (int rank = 0; rank < request_.ranks; ++rank) {
    RankStart start = start_of(rank);
    start.environment.emplace_back("MASTER_PORT", port);
    start.environment.emplace_back("FURROW_JOB_TOKEN", token);
    start.cores = shares[static_cast<size_t>(rank)];
    ranks_.emplace_back(start);
  }
}

RankStart Launch::start_of(int rank) const {
  RankStart start;
  start.program = request_.program.empty() ? own_program() : request_.program;
  start.words = request_.words;
  start.signals = signals_.before();
  if (!request_.independent) start.environment = rank_variables(rank, request_.ranks);
  if (request_.threads > 0) {
    start.environment.emplace_back("OMP_NUM_THREADS", std::to_string(request_.threads));
  } else if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    start.environment.emplace_back("OMP_NUM_THREADS", "1");
  }
  if (rank == 0 && ::isatty(STDERR_FILENO) == 1) start.environment.emplace_back("FURROW_LIVE_LINE", "1");
  start.environment.insert(start.environment.end(), request_.environment.begin(), request_.environment.end());
  if (rank > 0) {
    start.out = RankStart::Stdout::kWithErrors;  // rank 0 alone has results
  } else if (request_.output != nullptr) {
    start.out = RankStart::Stdout::kOwnPipe;
  }
  if (request_.independent) {
    for (std::string& word : start.words) word = with_number(word, rank);
  }
  return start;
}

void Launch::watch() {
  const auto alive = [this] {
    return std::any_of(ranks_.begin(), ranks_.end(), [](const RankProcess& rank) { return rank.alive(); });
  };
  while (alive()) {
    poll_once();
    take_signals();
    reap();
    store_logs();
    if (now_ns() < kill_at_ns_) continue;
    killed_ = true;
    kill_at_ns_ = kNever;
    say_who_is_killed();
    signal_all(SIGKILL);
  }
  for (int rank = 0; rank < request_.ranks; ++rank) output_.end(rank);
  store_logs();
}

void Launch::say_who_is_killed() const {
  std::vector<std::string> late;
  for (size_t rank = 0; rank < ranks_.size(); ++rank)
    if (ranks_[rank].alive()) late.push_back(std::to_string(rank));
  log_warning(fmt::format("killed, as they have not ended in time: ranks {}", join(late, ", ")));
}

void Launch::poll_once() {
  std::vector<pollfd> polls{{signals_.descriptor(), POLLIN, 0}};
  for (const RankProcess& rank : ranks_) {
    polls.push_back({rank.errors(), POLLIN, 0});  // negative ones are passed over
    polls.push_back({rank.output(), POLLIN, 0});
  }
  int64_t wait_ms = -1;
  if (kill_at_ns_ != kNever) wait_ms = std::max<int64_t>(0, (kill_at_ns_ - now_ns()) / kMsNs + 1);
  if (::poll(polls.data(), polls.size(), static_cast<int>(wait_ms)) <= 0) return;
  for (int rank = 0; rank < request_.ranks; ++rank) {
    const size_t at = 1 + 2 * static_cast<size_t>(rank);
    if (polls[at].revents != 0 || polls[at + 1].revents != 0) read_from(rank);
  }
}

// Everything that is there.
void Launch::read_from(int rank) {
  RankProcess& process = ranks_[static_cast<size_t>(rank)];
  std::array<char, 1 << 14> buffer;
  const auto drain = [&buffer](int descriptor, const auto& use) {
    while (descriptor >= 0) {
      const ssize_t count = ::read(descriptor, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return true;  // nothing more for now
      if (count == 0) return false;
      use(std::string_view(buffer.data(), static_cast<size_t>(count)));
    }
    return true;
  };
  if (!drain(process.errors(), [&](std::string_view text) { output_.add(rank, text); }))
    process.close_errors();
  if (!drain(process.output(), [&](std::string_view text) { request_.output->append(text); }))
    process.close_output();
}

void Launch::take_signals() {
  while (const std::optional<int> number = signals_.next()) {
    if (*number != SIGCHLD) on_signal(*number);
  }
}

void Launch::on_signal(int number) {
  if (number == SIGTSTP) {
    signal_all(SIGSTOP);
    ::raise(SIGSTOP);
    signal_all(SIGCONT);
    return;
  }
  if (number == SIGHUP && signal_ != 0) return;  // a closed terminal says so twice; nobody means more by it
  if (signal_ == 0) signal_ = number;
  ++signals_taken_;
  signal_all(signals_taken_ > 2 ? SIGKILL : number);
  if (signals_taken_ == 2) kill_after(kAfterSecondSignalMs);
  killed_ = killed_ || signals_taken_ > 2;
}

void Launch::signal_all(int number) {
  for (const RankProcess& rank : ranks_) rank.signal(number);
}

void Launch::reap() {
  for (int rank = 0; rank < request_.ranks; ++rank) {
    RankEnd end;
    if (!ranks_[static_cast<size_t>(rank)].reap(&end)) continue;
    read_from(rank);  // its last words
    on_end(rank, end);
  }
}

// It ended as the signal asked: by itself with a checkpoint saved, or at once before it could take signals.
bool Launch::asked_to_stop(const RankEnd& end) const {
  return signal_ != 0 && (end.exit_status == 128 + signal_ || (end.signal != 0 && end.signal == signal_));
}

void Launch::on_end(int rank, const RankEnd& end) {
  ends_[static_cast<size_t>(rank)] = end;
  if (end.exit_status == 0 && end.signal == 0) return;
  if (end.signal == SIGKILL && killed_) return;
  if (asked_to_stop(end)) {
    if (end.signal != 0) kill_after(request_.grace_ms);  // the others cannot agree with it on a last step
    return;
  }
  failed_.push_back(rank);
  kill_after(request_.grace_ms);
}

void Launch::store_logs() {
  if (request_.run_folder.empty() || output_.stored() || !observe::holds_run(request_.run_folder)) return;
  output_.store_in(request_.run_folder + "/logs");
}

// Without who says it and how far that rank was: what ranks that fail alike have in common.
std::string_view common_part(std::string_view error) {
  constexpr std::string_view kEndOfName = "): ";
  const size_t name = error.find(kEndOfName);
  if (error.starts_with("rank ") && name != std::string_view::npos)
    error.remove_prefix(name + kEndOfName.size());
  return error.substr(0, error.find("; last progress: "));
}

std::string Launch::description(int rank) const {
  const RankEnd& end = ends_[static_cast<size_t>(rank)];
  if (end.signal == SIGKILL) {
    return fmt::format(
        "rank {} was killed by signal 9 (Killed): by hand, or by the system when memory ran out", rank);
  }
  if (end.signal != 0)
    return fmt::format("rank {} was killed by signal {} ({})", rank, end.signal, ::strsignal(end.signal));
  const std::string& error = output_.error(rank);
  if (error.empty()) return fmt::format("rank {} ended with status {}", rank, end.exit_status);
  if (error.starts_with(fmt::format("rank {} (", rank))) return error;  // it names itself
  return fmt::format("rank {}: {}", rank, error);
}

// Ranks that only saw a peer go tell less than the one that went.
bool only_saw_another(const RankEnd& end) {
  const auto is = [&end](ErrorCode code) { return end.exit_status == exit_status(code); };
  return end.signal == 0 &&
         (is(ErrorCode::kUnavailable) || is(ErrorCode::kDeadlineExceeded) || is(ErrorCode::kCancelled));
}

// Whether `error` passes on what `cause` says, which is another's.
bool repeats(std::string_view error, std::string_view cause) {
  const std::string_view common = common_part(cause);
  return !common.empty() && common_part(error).ends_with(common);
}

// The rank to blame: the first that failed by itself; or, where its error ends with another rank's, which it
// was told of, that one.
int Launch::cause() const {
  const auto own = std::find_if(failed_.begin(), failed_.end(), [this](int rank) {
    return !only_saw_another(ends_[static_cast<size_t>(rank)]);
  });
  const int first = own != failed_.end() ? *own : failed_.front();
  for (const int rank : failed_) {
    const std::string& error = output_.error(rank);
    if (common_part(output_.error(first)) != common_part(error) && repeats(output_.error(first), error))
      return rank;
  }
  return first;
}

Launched Launch::outcome() {
  if (failed_.empty()) {
    if (signal_ == 0) return {};
    const bool finished = ends_[0].exit_status == 0 && ends_[0].signal == 0;
    return {.exit_status = finished ? 0 : 128 + signal_, .error = {}};
  }
  const int first = cause();
  const RankEnd& end = ends_[static_cast<size_t>(first)];
  const std::string& error = output_.error(first);
  const std::string_view common = common_part(error);
  const bool unanimous = !error.empty() && failed_.size() == ranks_.size() &&
                         std::all_of(failed_.begin(), failed_.end(),
                                     [&](int rank) { return common_part(output_.error(rank)) == common; });
  print_other_errors(first);
  return {.exit_status = end.signal != 0 ? 128 + end.signal : end.exit_status,
          .error = unanimous ? std::string(common) : description(first)};
}

// What else was said, once each, but for what only repeats the cause.
void Launch::print_other_errors(int first) {
  std::vector<std::string> said{output_.error(first)};
  for (int rank = 0; rank < request_.ranks; ++rank) {
    const std::string& error = output_.error(rank);
    if (error.empty() || repeats(error, said[0])) continue;
    if (std::ranges::any_of(said,
                            [&](const std::string& one) { return common_part(one) == common_part(error); }))
      continue;
    said.push_back(error);
    write_terminal(fmt::format("[rank {}] error: {}\n", rank, error));
  }
}

}  // namespace

Launched launch(const LaunchRequest& request) { return Launch(request).run(); }

}  // namespace furrow::app
