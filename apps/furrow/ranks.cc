#include "apps/furrow/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/furrow/torch_library.h"
#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/comm/algorithm.h"

namespace furrow::app {
namespace {

constexpr const char* kTuningKey = "app.tuning";
constexpr int64_t kSecondNs = 1'000'000'000;

comm::AlgorithmTable parse_tuning(const std::string& path, const std::string& text) {
  try {
    return comm::AlgorithmTable::parse(text);
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

constexpr const char* kMeasureHere =
    "measure it here with `furrow bench comm --tune`, into a file of its own that FURROW_COMM_TUNING names";

// What the tuning file says of this machine and of `link`; nothing where there is no such file.
std::optional<comm::AlgorithmTable> own_tuning(const std::string& path,
                                               const std::optional<comm::AlgorithmTable::Link>& link) {
  if (!path_exists(path)) return std::nullopt;
  comm::AlgorithmTable table = parse_tuning(path, read_file(path, 1 << 20));
  const comm::AlgorithmTable::Machine& measured = table.machine();
  if (!measured.processor.empty() && measured.processor != cpu_model()) {
    log_warning(fmt::format("{} was measured on {} (host {}) and is left out on {}: {}", path,
                            measured.processor, measured.host, cpu_model(), kMeasureHere));
    return std::nullopt;
  }
  if (!link) return table;
  for (const std::string& line : table.leave_out_other_links(*link))
    log_warning(fmt::format("{}: {}; it is left out{}", path, line,
                            link->emulated ? "" : fmt::format(": {}", kMeasureHere)));
  return table;
}

// One machine's measurements for all: ranks must choose alike.
void share_tuning(comm::Membership& membership, const config::Comm& config) {
  const std::string path = tuning_file();
  if (membership.world().rank == 0) {
    const auto table = own_tuning(path, membership.link());
    membership.store().set(kTuningKey, table ? table->to_text() : "");
    if (table) membership.communicator().set_algorithms(*table);
    return;
  }
  const int64_t deadline_ns = system_clock().monotonic_ns() + config.init_timeout_seconds * kSecondNs;
  const std::string text = membership.store().get(kTuningKey, deadline_ns);
  if (!text.empty()) membership.communicator().set_algorithms(parse_tuning(path, text));
}

std::unique_ptr<comm::Membership> join_world(const comm::World& world, const config::Config& config,
                                             const CancelToken* cancel) {
  comm::JoinOptions options;
  options.comm = config.comm;
  options.config = config::to_toml(config);
  options.cancel = cancel;
  auto membership = comm::join(world, options);
  if (world.size == 1) return membership;
  try {
    share_tuning(*membership, config.comm);
  } catch (const Error& error) {
    throw membership->fail(error);
  }
  return membership;
}

}  // namespace

comm::World this_world() { return comm::discover_world(comm::process_environment()); }

// How long it stays for them is a setting of what perhaps does not read: the usual time, then.
void before_joining(const comm::World& world, const std::function<void()>& prepare) try {
  prepare();
} catch (const Error& error) {
  comm::tell_world(world, error, config::Comm{}.init_timeout_seconds);
  throw;
}

void in_world(const comm::World& world, const config::Config& config, const CancelToken* cancel,
              const std::function<void(comm::Membership&)>& work) {
  const auto membership = join_world(world, config, cancel);
  try {
    work(*membership);
    membership->leave();
  } catch (const Error& error) {
    throw membership->fail(error);
  } catch (const std::exception& error) {
    throw membership->fail(Error(ErrorCode::kInternal, error.what()));
  }
}

void start_loading_torch_on_ranks(std::span<const std::string> words) {
  const auto is_nproc = [](const std::string& word) {
    return word == "--nproc" || word.starts_with("--nproc=");
  };
  if (std::ranges::none_of(words, is_nproc)) start_loading_torch();
}

void refuse_to_launch(const config::Config& config, const std::string& command) {
  if (config.comm.backend != "mpi") return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("ranks of backend mpi are started by MPI, not by --nproc: mpirun -n 2 furrow {}, "
                          "or set [comm] backend = \"native\"",
                          command));
}

std::string tuning_file() { return user_file("FURROW_COMM_TUNING", "comm-tuning"); }

int report(const Launched& launched) {
  if (!launched.error.empty()) {
    std::fflush(stdout);
    fmt::print(stderr, "furrow: error: {}\n", launched.error);
  }
  return launched.exit_status;
}

}  // namespace furrow::app
