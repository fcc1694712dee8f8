#include "apps/furrow/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>

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

// The text of the tuning file, where there is one that says something of this machine.
std::string own_tuning(const std::string& path) {
  if (!path_exists(path)) return "";
  std::string text = read_file(path, 1 << 20);
  const comm::AlgorithmTable::Machine measured = parse_tuning(path, text).machine();
  if (measured.processor.empty() || measured.processor == cpu_model()) return text;
  log_warning(
      fmt::format("{} was measured on {} (host {}) and is left out on {}: measure it here with `furrow bench "
                  "comm --tune`, into a file of its own that FURROW_COMM_TUNING names",
                  path, measured.processor, measured.host, cpu_model()));
  return "";
}

// One machine's measurements for all: ranks must choose alike.
void share_tuning(comm::Membership& membership, const config::Comm& config) {
  const std::string path = tuning_file();
  if (membership.world().rank == 0) membership.store().set(kTuningKey, own_tuning(path));
  const int64_t deadline_ns = system_clock().monotonic_ns() + config.init_timeout_seconds * kSecondNs;
  const std::string text = membership.store().get(kTuningKey, deadline_ns);
  if (!text.empty()) membership.communicator().set_algorithms(parse_tuning(path, text));
}

std::unique_ptr<comm::Membership> join_world(const comm::World& world, const config::Config& config) {
  comm::JoinOptions options;
  options.comm = config.comm;
  options.config = config::to_toml(config);
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

void in_world(const comm::World& world, const config::Config& config,
              const std::function<void(comm::Membership&)>& work) {
  const auto membership = join_world(world, config);
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
