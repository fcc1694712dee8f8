#include "furrow/comm/meeting.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/base/version.h"
#include "furrow/comm/descriptors.h"
#include "furrow/comm/join.h"
#include "furrow/comm/link.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kMsPerSecond = 1'000;
constexpr int64_t kBetweenLooksNs = kSecondNs / 10;
constexpr int64_t kLateNs = 3 * kSecondNs;  // between the starts of a job's ranks, whatever the deadline

// Whoever started this process, when it did.
const pid_t kStarter = getppid();

// Another network namespace is another host, whatever else is shared: the ranks of one reach each other over
// its links.
std::string network_namespace() {
  struct stat status = {};
  return stat("/proc/self/ns/net", &status) == 0 ? std::to_string(status.st_ino) : "";
}

// Machines may have one name, and number their namespaces alike.
std::string machine_of(const std::string& network) {
  std::string boot;
  try {
    boot = trim(read_file("/proc/sys/kernel/random/boot_id"));
  } catch (const Error&) {  // then the name tells
  }
  return fmt::format("{}/{}/{}", host_name(), boot, network);
}

// What rank 0 must be able to open until everybody is there: the store's port, a connection to each rank, its
// own to itself, two to wake threads, and what a look-up of names opens for a moment.
std::optional<Error> lack_to_meet(int ranks) {
  constexpr uint64_t kOfStore = 6;
  return lack_of_descriptors(static_cast<uint64_t>(ranks) + kOfStore + StoreServer::kSpare,
                             fmt::format("meet the ranks of a world of {}", ranks));
}

// What another rank must be able to open: its connection to the store, what wakes the thread that reads from
// it, what a look-up of names opens for a moment; then its connections to each peer, or a watch over each
// whose memory it sees, and its own port or memory.
std::optional<Error> lack_to_come(int ranks, const config::Comm& comm) {
  constexpr uint64_t kOfStore = 4, kOfTransports = 4;
  const uint64_t of_peer = all_over_tcp(comm) ? static_cast<uint64_t>(comm.connections) + 1 : 1;
  return lack_of_descriptors(kOfStore + kOfTransports + static_cast<uint64_t>(ranks - 1) * of_peer,
                             fmt::format("join a world of {} ranks", ranks));
}

// Whoever has the port may be the same job's rank 0, which then says so; and so does this one.
void refuse_second_zero(const StoreAddress& taken, const Secret& secret, const Member& self,
                        int64_t silence_ms) try {
  Store(taken, secret, self, silence_ms, system_clock().monotonic_ns() + kSecondNs);
} catch (const Error& error) {
  if (error.code() == ErrorCode::kAlreadyExists) throw;
}

// Nobody starts other ranks any more, either.
bool is_orphan() { return getppid() != kStarter; }

// Where the other hosts look, too: many a host gives its own name the address 127.0.1.1, at which nobody else
// finds it.
std::optional<Socket> listen_for(const World& world, int port) {
  const std::string& address = world.master_address;
  std::optional<Socket> listener = listen_at(address, port);
  const bool meant =
      is_loopback(address) || address.starts_with("localhost") || world.local_size == world.size;
  if (!listener || meant || !is_loopback(local_endpoint(*listener).address)) return listener;
  listener->close();
  return listen_everywhere(port);
}

}  // namespace

Member self_of(const World& world, const std::string& config) {
  const std::string memory = shm_locality();
  const std::string network = network_namespace();
  return {.rank = world.rank,
          .size = world.size,
          .pid = process_id(),
          .host = host_name(),
          .locality = memory.empty() ? "" : memory + "/" + network,
          .machine = machine_of(network),
          .version = std::string(furrow_version()),
          .commit = std::string(furrow_git_commit()),
          .config_digest = config.empty() ? "" : fmt::format("{:016x}", xxh3_64(config)),
          .config = config};
}

bool all_over_tcp(const config::Comm& comm) {
  return comm.transport == "tcp" || parse_link(comm.throttle).emulated();
}

std::optional<Error> reason_not_to_come(const World& world, const config::Comm& comm) try {
  parse_link(comm.throttle);
  return world.rank == 0 ? lack_to_meet(world.size) : lack_to_come(world.size, comm);
} catch (const Error& error) {
  return error;
}

std::unique_ptr<StoreServer> open_store(const World& world, const Secret& secret, const Member& self,
                                        int64_t silence_ms, const std::optional<Error>& refusal) {
  const std::vector<int> ports = rendezvous_ports(world);
  for (const int port : ports) {
    if (auto listener = listen_for(world, port)) {
      return std::make_unique<StoreServer>(std::move(*listener), secret, self, silence_ms, refusal);
    }
    refuse_second_zero({world.master_address, {port}}, secret, self, silence_ms);
  }
  throw Error(ErrorCode::kUnavailable,
              fmt::format("rank 0 cannot listen at {}: ports {} to {} are taken: set another MASTER_PORT",
                          world.master_address, ports.front(), ports.back()));
}

void tell_whoever_comes(StoreServer& server, const Error& reason, int64_t deadline_ns,
                        const CancelToken* cancel) {
  const auto now_ns = [] { return system_clock().monotonic_ns(); };
  const int64_t soon_ns = now_ns() + kSecondNs, late_ns = now_ns() + kLateNs;
  const int64_t end_ns = std::max(deadline_ns, late_ns);
  bool said = false;
  while (now_ns() < (is_orphan() ? late_ns : end_ns) && !(cancel != nullptr && cancel->cancelled())) {
    if (server.wait_until_all_came(std::min(end_ns, now_ns() + kBetweenLooksNs))) return;
    if (now_ns() < soon_ns || std::exchange(said, true)) continue;
    log_warning(fmt::format("{}: this rank stays until the others are there to hear of it", reason.what()));
  }
}

// Whoever can open nothing gives up its standard input, for the connection that says so: the process is on
// its way out.
void tell_rank_zero(const World& world, const Secret& secret, const Member& self, const Error& reason,
                    int64_t deadline_ns, const CancelToken* cancel) {
  const StoreAddress where{world.master_address, rendezvous_ports(world)};
  if (SpareDescriptors(1).count() == 0) Socket(STDIN_FILENO).close();
  const auto interrupted = [&] { check_interrupted(cancel); };
  const auto alone = [&] {
    check_interrupted(cancel);
    if (is_orphan()) throw Error(ErrorCode::kCancelled, "nobody starts rank 0 any more");
  };
  const int64_t soon_ns = std::min(deadline_ns, system_clock().monotonic_ns() + kSecondNs);
  if (tell_store(where, secret, self, reason, {soon_ns, interrupted})) return;
  log_warning(fmt::format("{}: this rank stays until rank 0 is there to hear of it", reason.what()));
  tell_store(where, secret, self, reason, {deadline_ns, alone});
}

void tell_world(const World& world, const Error& reason, int64_t patience_seconds) noexcept try {
  if (world.size == 1) return;
  const int64_t deadline_ns = system_clock().monotonic_ns() + patience_seconds * kSecondNs;
  const Secret secret(world.token);
  const Member self = self_of(world, "");
  if (world.rank != 0) return tell_rank_zero(world, secret, self, reason, deadline_ns);
  const auto server = open_store(world, secret, self, patience_seconds * kMsPerSecond, reason);
  tell_whoever_comes(*server, reason, deadline_ns);
} catch (const std::exception& error) {
  log_warning(fmt::format("the other ranks do not hear of it: {}", error.what()));
}

}  // namespace furrow::comm
