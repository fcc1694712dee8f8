#include "apps/furrow/launch_environment.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <map>

#include "apps/furrow/launcher.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/comm/world.h"

namespace furrow::app {
namespace {

constexpr int kMostRanks = 1024;
constexpr const char* kSystemCores = "/sys/devices/system/cpu";

// The first number in a file of a core's topology; `otherwise` where the system does not say.
int topology_of(const std::string& folder, int core, const char* name, int otherwise) {
  std::ifstream file(fmt::format("{}/cpu{}/topology/{}", folder, core, name));
  int number = 0;
  return file >> number && number >= 0 ? number : otherwise;
}

// What the system gives out: nobody else has it now.
int some_loopback_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) throw errno_error(errno, "open", "a socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  const bool found = ::bind(descriptor, any, size) == 0 && ::getsockname(descriptor, any, &size) == 0;
  const int reason = errno;
  ::close(descriptor);
  if (!found) throw errno_error(reason, "find", "a free port on 127.0.0.1");
  return ntohs(address.sin_port);
}

}  // namespace

std::vector<int> usable_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(static_cast<size_t>(core), &set)) cores.push_back(core);
  }
  return side_by_side(std::move(cores), kSystemCores);
}

std::vector<int> side_by_side(std::vector<int> cores, const std::string& folder) {
  const auto place = [&folder](int core) {
    return std::array{topology_of(folder, core, "physical_package_id", 0),
                      topology_of(folder, core, "thread_siblings_list", core), core};
  };
  std::map<int, std::array<int, 3>> places;
  for (const int core : cores) places[core] = place(core);
  std::ranges::sort(cores, {}, [&places](int core) { return places[core]; });
  return cores;
}

int free_loopback_port() {
  constexpr int kLargest = 65'000;  // comm::rendezvous_ports tries some more after it
  int port = some_loopback_port();
  for (int tries = 0; port > kLargest && tries < 100; ++tries) port = some_loopback_port();
  return port;
}

std::string random_token() {
  std::array<unsigned char, 16> bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw errno_error(errno, "read", "random bytes for the job's token");
  std::string token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

std::vector<std::pair<std::string, std::string>> rank_variables(int rank, int ranks) {
  const std::string number = std::to_string(rank), size = std::to_string(ranks);
  return {{"RANK", number},           {"LOCAL_RANK", number}, {"WORLD_SIZE", size},
          {"LOCAL_WORLD_SIZE", size}, {"GROUP_RANK", "0"},    {"MASTER_ADDR", "127.0.0.1"}};
}

void refuse_inside_a_world() {
  comm::World world;
  try {
    world = comm::discover_world(comm::process_environment());
  } catch (const Error&) {
    return;  // nobody's rank: a batch script of Slurm, variables left over
  }
  if (world.size == 1) return;
  throw Error(
      ErrorCode::kFailedPrecondition,
      fmt::format("--nproc starts ranks, but this process is rank {} of {} already (launcher: {}): leave "
                  "--nproc out, the environment is enough; or unset the launcher's variables (RANK, "
                  "WORLD_SIZE)",
                  world.rank, world.size, world.launcher));
}

std::vector<std::vector<int>> shares_of_cores(const std::vector<int>& cores, int ranks, int threads) {
  std::vector<std::vector<int>> shares(static_cast<size_t>(ranks));
  const auto share = static_cast<std::ptrdiff_t>(cores.size()) / ranks;
  if (share < threads) return shares;
  for (int rank = 0; rank < ranks; ++rank) {
    shares[static_cast<size_t>(rank)].assign(cores.begin() + rank * share,
                                             cores.begin() + (rank + 1) * share);
  }
  return shares;
}

int parse_ranks(const std::string& text) {
  int ranks = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ranks);
  if (error != std::errc() || end != text.data() + text.size() || ranks < 1 || ranks > kMostRanks) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("--nproc is the number of ranks on this machine, 1 to {}, not '{}'", kMostRanks, text));
  }
  return ranks;
}

}  // namespace furrow::app
