#include "furrow/comm/world.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <initializer_list>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/base/text.h"

namespace furrow::comm {
namespace {

constexpr int kDefaultPort = 29500;  // torch's
constexpr int kPortCandidates = 16;
constexpr int kLargestPort = 65535;
constexpr int kFirstDerivedPort = 20000;  // up to 31999: below the range that the system hands out
constexpr int kDerivedPorts = 12000;
constexpr int64_t kLargestWorld = 1 << 20;

struct Launcher {
  std::string_view name;
  std::string_view marker;
  std::string_view rank;
  std::array<std::string_view, 2> size;  // the first one set counts
  std::string_view local_rank;
  std::string_view local_size;
  std::string_view node;
  std::array<std::string_view, 3> job_id;  // all of them, joined
};

// clang-format off
constexpr Launcher kLaunchers[] = {
    {"torchrun", "TORCHELASTIC_RUN_ID", "RANK", {"WORLD_SIZE"}, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK",
     {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"}},
    {"environment", "RANK", "RANK", {"WORLD_SIZE"}, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK",
     {}},
    {"openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", {"OMPI_COMM_WORLD_SIZE"},
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "",
     {"PMIX_NAMESPACE"}},
    {"slurm", "SLURM_PROCID", "SLURM_PROCID", {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}, "SLURM_LOCALID", "",
     "SLURM_NODEID",
     {"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"}},
    {"pmi", "PMI_RANK", "PMI_RANK", {"PMI_SIZE"}, "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "",
     {}},
    {"kubernetes", "JOB_COMPLETION_INDEX", "JOB_COMPLETION_INDEX", {"WORLD_SIZE"}, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "",
     {"JOB_NAME"}},
};
// clang-format on

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

class Reader {
 public:
  explicit Reader(const Environment& environment) : environment_(environment) {}

  // Set and not empty.
  bool has(std::string_view name) const { return !text(name).empty(); }

  std::string_view text(std::string_view name) const {
    const auto found = environment_.find(name);
    return found == environment_.end() ? std::string_view{} : std::string_view(found->second);
  }

  std::optional<int> number(std::string_view name) const {
    if (name.empty() || !has(name)) return std::nullopt;
    int64_t value = 0;
    if (!parse_int(text(name), value) || value < 0 || value > kLargestWorld) {
      refuse(
          fmt::format("the environment says {}={}, which is not a number from 0 to {}: unset or correct it",
                      name, text(name), kLargestWorld));
    }
    return static_cast<int>(value);
  }

  int required(std::string_view name, std::string_view because) const {
    const std::optional<int> value = number(name);
    if (!value)
      refuse(fmt::format("{} is set in the environment but {} is not: {}", because, name, remedy(because)));
    return *value;
  }

 private:
  static std::string remedy(std::string_view because) {
    if (because == "JOB_COMPLETION_INDEX") {
      return "set WORLD_SIZE to the completions of the job, or to 1 when every pod trains alone";
    }
    return fmt::format("a launcher sets both; unset {} for a world of one", because);
  }

  const Environment& environment_;
};

const Launcher* launcher_of(const Reader& reader) {
  for (const Launcher& launcher : kLaunchers) {
    if (reader.has(launcher.marker)) return &launcher;
  }
  return nullptr;
}

int size_of(const Reader& reader, const Launcher& launcher) {
  for (const std::string_view name : launcher.size) {
    if (const auto value = reader.number(name)) return *value;
  }
  return reader.required(launcher.size[0], launcher.marker);
}

// What no launcher sets alone.
void check_leftovers(const Reader& reader) {
  for (const std::string_view name : {"LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE"}) {
    if (reader.has(name)) reader.required("RANK", name);
  }
  if (reader.number("WORLD_SIZE").value_or(1) != 1) reader.required("RANK", "WORLD_SIZE");
}

// RANK and WORLD_SIZE set by hand below another launcher must be its numbers: exported once for all
// processes, they would make every one of them the same rank.  furrow's own launcher marks its children by
// the token.
void check_agreement(const Reader& reader, const World& world) {
  if (world.launcher != "environment" || reader.has("FURROW_JOB_TOKEN")) return;
  for (const Launcher& other : kLaunchers) {
    if (other.name != "openmpi" && other.name != "slurm") continue;
    const bool step = other.name != "slurm" || reader.has("SLURM_STEP_ID");
    if (!step || !reader.has(other.rank)) continue;
    const int rank = *reader.number(other.rank), size = size_of(reader, other);
    if (size == 1 || (rank == world.rank && size == world.size)) continue;
    refuse(fmt::format(
        "the environment contradicts itself: RANK={} WORLD_SIZE={}, but {} says rank {} of {}: unset "
        "RANK and WORLD_SIZE to follow {}, or set them per process",
        world.rank, world.size, other.rank, rank, size, other.name));
  }
}

void check_numbers(const World& world, const Launcher& launcher) {
  if (world.size < 1) refuse(fmt::format("{} is 0: a world has at least one rank", launcher.size[0]));
  if (world.rank >= world.size) {
    refuse(fmt::format("{}={} does not fit {}={}: ranks count from 0", launcher.rank, world.rank,
                       launcher.size[0], world.size));
  }
  if (world.local_size > world.size || world.local_size == 0) {
    refuse(fmt::format("{}={} does not fit {}={}", launcher.local_size, world.local_size, launcher.size[0],
                       world.size));
  }
  if (world.local_size > 0 && world.local_rank >= world.local_size) {
    refuse(fmt::format("{}={} does not fit {}={}: local ranks count from 0", launcher.local_rank,
                       world.local_rank, launcher.local_size, world.local_size));
  }
}

// "2(x3),1" with node 3 is 1.
int slurm_local_size(std::string_view tasks_per_node, int node) {
  int first = 0;
  for (const std::string& part : split(tasks_per_node, ',')) {
    const size_t bracket = part.find("(x");
    int64_t tasks = 0, nodes = 1;
    if (!parse_int(part.substr(0, bracket), tasks)) return -1;
    if (bracket != std::string::npos &&
        !parse_int(part.substr(bracket + 2, part.size() - bracket - 3), nodes)) {
      return -1;
    }
    first += static_cast<int>(nodes);
    if (node < first) return static_cast<int>(tasks);
  }
  return -1;
}

std::string_view first_set(const Reader& reader, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (reader.has(name)) return reader.text(name);
  }
  return {};
}

void complete_slurm(const Reader& reader, World& world) {
  if (!reader.has("SLURM_STEP_ID")) {
    refuse(fmt::format(
        "this process runs in a Slurm job of {} tasks but was not started by srun: start it with srun, "
        "or set RANK=0 and WORLD_SIZE=1 for a world of one",
        world.size));
  }
  if (world.node >= 0) {
    world.local_size = slurm_local_size(
        first_set(reader, {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}), world.node);
  }
}

std::string master_address(const Reader& reader, const World& world) {
  if (reader.has("MASTER_ADDR")) return std::string(reader.text("MASTER_ADDR"));
  if (world.local_size == world.size) return "127.0.0.1";
  if (world.launcher == "slurm") {
    const std::string_view hosts =
        first_set(reader, {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"});
    if (!hosts.empty()) return first_slurm_host(hosts);
  }
  refuse(fmt::format(
      "the world has {} ranks on several hosts but MASTER_ADDR is not set: set it to the address of "
      "rank 0's host{}",
      world.size, world.launcher == "openmpi" ? " (mpirun -x MASTER_ADDR=...)" : ""));
}

int master_port(const Reader& reader, const World& world) {
  if (reader.has("MASTER_PORT")) {
    const int port = *reader.number("MASTER_PORT");
    const int largest = kLargestPort - (world.launcher == "torchrun" ? 1 : 0);
    if (port < 1 || port > largest) {
      refuse(fmt::format(
          "MASTER_PORT={} is no port: choose one from 1 to {}{}", port, largest,
          largest < kLargestPort ? " (torchrun's own store has it, and the ranks meet at the next)" : ""));
    }
    return port;
  }
  if (world.job_id.empty()) return kDefaultPort;
  return kFirstDerivedPort + static_cast<int>(xxh3_64(world.job_id) % kDerivedPorts);
}

std::string job_id(const Reader& reader, const Launcher& launcher) {
  std::vector<std::string> parts;
  for (const std::string_view name : launcher.job_id) {
    if (!name.empty() && reader.has(name)) parts.emplace_back(reader.text(name));
  }
  return join(parts, "/");
}

World numbers_of(const Reader& reader, const Launcher& launcher) {
  World world;
  world.launcher = launcher.name;
  world.size = size_of(reader, launcher);
  world.rank = reader.required(launcher.rank, launcher.marker);
  const bool pod_alone = launcher.name == "kubernetes" && world.size == 1;
  if (pod_alone) world.rank = 0;
  world.local_rank = reader.number(launcher.local_rank).value_or(-1);
  world.local_size = reader.number(launcher.local_size).value_or(-1);
  world.node = reader.number(launcher.node).value_or(-1);
  return world;
}

}  // namespace

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos)
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

World discover_world(const Environment& environment) {
  const Reader reader(environment);
  const Launcher* launcher = launcher_of(reader);
  if (launcher == nullptr) {
    check_leftovers(reader);
    return {};
  }
  World world = numbers_of(reader, *launcher);
  check_numbers(world, *launcher);
  check_agreement(reader, world);
  if (world.size == 1) {
    world.local_rank = world.node = 0;
    world.local_size = 1;
    return world;
  }
  if (launcher->name == "slurm") complete_slurm(reader, world);
  world.job_id = job_id(reader, *launcher);
  world.master_address = master_address(reader, world);
  world.master_port = master_port(reader, world);
  world.token_given = reader.has("FURROW_JOB_TOKEN");
  world.token = world.token_given ? std::string(reader.text("FURROW_JOB_TOKEN"))
                                  : fmt::format("{} {} {}:{}", world.launcher, world.job_id,
                                                world.master_address, world.master_port);
  return world;
}

std::vector<int> rendezvous_ports(const World& world) {
  std::vector<int> ports;
  const int first = world.master_port + (world.launcher == "torchrun" ? 1 : 0);
  for (int port = first; port < first + kPortCandidates && port <= kLargestPort; ++port)
    ports.push_back(port);
  return ports;
}

std::string first_slurm_host(std::string_view node_list) {
  std::string host;
  for (size_t at = 0; at < node_list.size() && node_list[at] != ','; ++at) {
    if (node_list[at] != '[') {
      host += node_list[at];
      continue;
    }
    const size_t close = node_list.find(']', at);
    if (close == std::string_view::npos)
      refuse(fmt::format("the node list '{}' has an unclosed bracket", node_list));
    const std::string_view inside = node_list.substr(at + 1, close - at - 1);
    host += inside.substr(0, inside.find_first_of("-,"));
    at = close;
  }
  if (host.empty()) refuse(fmt::format("the node list '{}' names no host", node_list));
  return host;
}

}  // namespace furrow::comm
