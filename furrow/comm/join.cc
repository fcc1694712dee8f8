#include "furrow/comm/join.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "furrow/base/clock.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/base/version.h"
#include "furrow/comm/descriptors.h"
#include "furrow/comm/rendezvous.h"
#include "furrow/comm/store.h"
#include "furrow/comm/store_server.h"
#include "furrow/config/comm_check.h"

namespace furrow::comm {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kMsPerSecond = 1'000;

// Of a time limit: a little less, because the watch knows more of a stopped rank than those that wait for it.
constexpr int64_t kSilenceMsPerSecond = 900;

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

Member self_of(const World& world, const JoinOptions& options) {
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
          .config_digest = options.config.empty() ? "" : fmt::format("{:016x}", xxh3_64(options.config)),
          .config = options.config};
}

Roster roster_of(int rank, const std::vector<Member>& members) {
  Roster roster{rank, {}};
  for (const Member& member : members) roster.ranks.push_back({member.host, member.pid, member.locality});
  return roster;
}
  result.start_timeout_ms = options.comm.init_timeout_seconds * kMsPerSecond;

// Numbers that the launcher did not give: hosts in the order of their first ranks.
void count_locally(World& world, const std::vector<Member>& members) {
  std::map<std::string, int> nodes, counts;
  int local_rank = 0;
  for (const Member& member : members) {
    nodes.try_emplace(member.machine, static_cast<int>(nodes.size()));
    if (member.rank == world.rank) local_rank = counts[member.machine];
    ++counts[member.machine];
  }
  const std::string& here = members[static_cast<size_t>(world.rank)].machine;
  if (world.local_rank < 0) world.local_rank = local_rank;
  if (world.local_size < 0) world.local_size = counts[here];
  if (world.node < 0) world.node = nodes[here];
}

// The keys of [comm] that are set to something else than their defaults, among those about furrow's own
// wires; TCP's alone where the others count.
std::vector<std::string> keys_of_wires(const config::Comm& comm, bool tcp_alone) {
  const config::Comm usual;
  std::vector<std::string> keys;
  if (!tcp_alone && comm.transport != usual.transport) keys.emplace_back("comm.transport");
  if (!tcp_alone && comm.algorithm != usual.algorithm) keys.emplace_back("comm.algorithm");
  if (!tcp_alone && comm.throttle != usual.throttle) keys.emplace_back("comm.throttle");
  if (comm.interface != usual.interface) keys.emplace_back("comm.interface");
  if (comm.connections != usual.connections) keys.emplace_back("comm.connections");
  return keys;
}

void warn_of_unused(const std::vector<std::string>& keys, std::string_view why) {
  if (!keys.empty()) log_warning(fmt::format("{}: without effect, as {}", furrow::join(keys, ", "), why));
}

CommunicatorOptions communicator_options(const JoinOptions& options) {
  CommunicatorOptions result = options.communicator;
  result.timeout_ms = options.comm.train_timeout_seconds * kMsPerSecond;
  if (const std::string objection = config::engine_objection(options.comm); !objection.empty())
    throw Error(ErrorCode::kInvalidArgument, objection);
  result.backend = options.comm.backend;
  if (options.comm.algorithm != "auto") result.algorithm = options.comm.algorithm;
  return result;
}

// One rank has nobody to talk to, whatever would carry it.
CommunicatorOptions options_alone(const World& world, const JoinOptions& options) {
  if (options.comm.backend == "mpi" && world.launcher == "none") {
    throw Error(ErrorCode::kFailedPrecondition,
                "[comm] backend = \"mpi\", but no MPI has started this process: start the ranks with mpirun "
                "or srun --mpi, or set [comm] backend = \"native\"");
  }
  CommunicatorOptions result = communicator_options(options);
  result.backend = "native";
  return result;
}

class Alone : public Membership {
 public:
  Alone(World world, const JoinOptions& options)
      : world_(std::move(world)),
        communicator_(std::make_unique<Communicator>(Roster{0, {{host_name(), process_id(), ""}}},
                                                     std::vector<std::unique_ptr<Transport>>{},
                                                     options_alone(world_, options))) {
    warn_of_unused(keys_of_wires(options.comm, false), "one rank talks to nobody");
  }
  const World& world() const override { return world_; }
  Communicator& communicator() override { return *communicator_; }
  Rendezvous& store() override { return store_; }
  std::optional<AlgorithmTable::Link> link() const override { return std::nullopt; }
  void leave() override { communicator_.reset(); }
  Error fail(const Error& reason) noexcept override {
    if (communicator_) communicator_->abort(reason);
    return reason;
  }

 private:
  World world_;
  LocalRendezvous store_;
  std::unique_ptr<Communicator> communicator_;
};

// To every peer its connections or its memory, one to the store, and what a program has besides.
uint64_t descriptors_for(int ranks, const config::Comm& comm) {
  constexpr uint64_t kBesides = 512, kOfMemory = 8;
  return kBesides + static_cast<uint64_t>(ranks) * (static_cast<uint64_t>(comm.connections) + 2 + kOfMemory);
}

// What rank 0 must be able to open until everybody is there: the store's port, a connection to each rank, its
// own to itself, two to wake threads, and what a look-up of names opens for a moment.
std::optional<Error> lack_to_meet(int ranks) {
  constexpr uint64_t kOfStore = 6;
  return lack_of_descriptors(static_cast<uint64_t>(ranks) + kOfStore + StoreServer::kSpare,
                             fmt::format("meet the ranks of a world of {}", ranks));
}

bool all_over_tcp(const config::Comm& comm) {
  return comm.transport == "tcp" || parse_link(comm.throttle).emulated();
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

// The others hear why this rank does not come.  Whoever can open nothing gives up its standard input, for the
// connection that says so: the process is on its way out.
void tell_others(const StoreAddress& where, const Secret& secret, const Member& self, const Error& reason,
                 int64_t deadline_ns) {
  if (SpareDescriptors(1).count() == 0) Socket(STDIN_FILENO).close();
  const int64_t soon_ns = std::min(deadline_ns, system_clock().monotonic_ns() + kSecondNs);
  if (tell_store(where, secret, self, reason, soon_ns)) return;
  log_warning(fmt::format("{}: it stays until rank 0 is there to hear of it", reason.what()));
  tell_store(where, secret, self, reason, deadline_ns);
}

// Connections to each peer, the port where they come in, and what wakes threads.
std::optional<Error> lack_to_connect(const TcpOptions& tcp) {
  constexpr uint64_t kBesides = 4;
  const auto per_peer = static_cast<uint64_t>(tcp.connections) + 1;
  return lack_of_descriptors(tcp.peers.size() * per_peer + kBesides,
                             fmt::format("be connected to {} ranks over TCP", tcp.peers.size()));
}

// Whoever has the port may be the same job's rank 0, which then says so; and so does this one.
void refuse_second_zero(const StoreAddress& taken, const Secret& secret, const Member& self,
                        int64_t silence_ms) try {
  Store(taken, secret, self, silence_ms, system_clock().monotonic_ns() + kSecondNs);
} catch (const Error& error) {
  if (error.code() == ErrorCode::kAlreadyExists) throw;
}

bool spans_hosts(const std::vector<Member>& members) {
  return std::ranges::any_of(members, [&](const Member& m) { return m.machine != members[0].machine; });
}

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

class Joined : public Membership {
 public:
  Joined(World world, const JoinOptions& options) : world_(std::move(world)), options_(options) {
    parse_link(options_.comm.throttle);  // refused before anybody waits
    allow_descriptors(descriptors_for(world_.size, options_.comm));
    const int64_t deadline_ns =
        system_clock().monotonic_ns() + options_.comm.init_timeout_seconds * kSecondNs;
    const Secret secret(world_.token);
    const Member self = self_of(world_, options_);
    const StoreAddress where{world_.master_address, rendezvous_ports(world_)};
    meet(where, secret, self, deadline_ns);
    count_locally(world_, store_->members());
    warn_of_made_up_token();
    connect(deadline_ns);
  }

  ~Joined() override {
    if (!over_) fail(Error(ErrorCode::kUnavailable, "it ended before the others were done with it"));
    let_go();
  }

  const World& world() const override { return world_; }
  Communicator& communicator() override { return *communicator_; }
  Rendezvous& store() override { return *store_; }
  std::optional<AlgorithmTable::Link> link() const override { return link_; }

  void leave() override {
    over_ = true;
    let_go();
    store_->leave(system_clock().monotonic_ns() + options_.comm.train_timeout_seconds * kSecondNs);
    if (server_) server_->wait_until_left();
  }

  Error fail(const Error& reason) noexcept override {
    over_ = true;
    const Error whole = communicator_ ? communicator_->with_progress(reason) : reason;
    const bool begun = std::string_view(whole.what()).find(kLastProgress) != std::string_view::npos;
    const Error told = begun ? told_by(roster_of(world_.rank, store_->members()), world_.rank, whole) : whole;
    store_->fail(told);
    // Over every wire in the same words, and if another rank was first, with its reason.
    if (communicator_) communicator_->abort(store_->failure().value_or(told));
    return told;
  }

 private:
  // A rank 0 that fails before it has met the others still lets them hear of it.
  void meet(StoreAddress where, const Secret& secret, const Member& self, int64_t deadline_ns) try {
    const int64_t silence_ms = options_.comm.train_timeout_seconds * kSilenceMsPerSecond;
    if (world_.rank == 0) {
      const std::optional<Error> lack = lack_to_meet(world_.size);
      server_ = open_store(world_, secret, self, silence_ms, lack);
      if (lack) throw Error(lack->code(), named(self, lack->what()));
      where.ports = {server_->endpoint().port};
    } else if (const std::optional<Error> lack = lack_to_come(world_.size, options_.comm)) {
      const Error told(lack->code(), named(self, lack->what()));
      tell_others(where, secret, self, told, deadline_ns);
      throw Error(told);
    }
    store_ = std::make_unique<Store>(where, secret, self, silence_ms, deadline_ns);
  } catch (const Error& error) {
    if (server_) server_->refuse(error);
    throw;
  }

  // Inside a host whoever could use it is the host's own user.
  void warn_of_made_up_token() const {
    if (world_.rank != 0 || world_.token_given || !spans_hosts(store_->members())) return;
    log_warning(
        "the ranks of several hosts prove themselves with a token made of the job's id and address, which "
        "others "
        "may know: give every rank the same secret FURROW_JOB_TOKEN");
  }

  // A failure here is told to the others as any other is.
  void connect(int64_t deadline_ns) try {
    FURROW_FAILPOINT("comm.join");
    JoinContext context;
    context.roster = roster_of(world_.rank, store_->members());
    context.rendezvous = store_.get();
    context.deadline_ns = deadline_ns;
    context.job_token = world_.token;
    context.tcp.address = own_address(deadline_ns);
    context.tcp.connections = static_cast<int>(options_.comm.connections);
    context.tcp.link = parse_link(options_.comm.throttle);
    auto wires = transports(context);
    if (!context.tcp.peers.empty()) link_ = link_of(context.tcp);
    if (!link_ && world_.rank == 0) {
      warn_of_unused(
          keys_of_wires(options_.comm, true),
          "all ranks see each other's memory and nothing takes TCP: set comm.transport = tcp if it "
          "should");
    }
    CommunicatorOptions options = communicator_options(options_);
    // On its only core a rank gains nothing from a second thread that moves memory: they would take turns.
    const bool memory_alone = context.tcp.peers.empty();
    if (memory_alone && core_count() == 1) options.inline_bytes = std::numeric_limits<int64_t>::max();
    communicator_ = std::make_unique<Communicator>(context.roster, std::move(wires), std::move(options));
    communicator_->ask_for_progress([this](int rank) { return store_->progress_of(rank); });
    store_->report_progress([this] { return report_of(communicator_->progress()); });
    store_->look_at_progress(
        [this](int rank, const Report& reported) { return communicator_->progress_of(rank, reported); });
    store_->on_failure([this](const Error& error) { communicator_->abort(error); });
  } catch (const Error& error) {
    store_->fail(error);
    throw;
  }

  std::string own_address(int64_t deadline_ns) {
    const std::string& interface = options_.comm.interface;
    if (!interface.empty()) return interface_addresses(interface).front();
    const std::string address = store_->own_address();
    return is_loopback(address) && spans_hosts(store_->members()) ? address_from_outside(deadline_ns)
                                                                  : address;
  }

  // Of the host of rank 0, which its ranks know by a name that means something else there.
  std::string address_from_outside(int64_t deadline_ns) {
    constexpr const char* kKey = "join/address of rank 0";
    if (server_) store_->set(kKey, server_->reached_at());
    const std::string address = store_->get(kKey, deadline_ns);
    return address.empty() ? store_->own_address() : address;
  }

  AlgorithmTable::Link link_of(const TcpOptions& tcp) const {
    std::set<std::string> hosts;
    for (const Member& member : store_->members()) hosts.insert(member.machine);
    const std::string interface = interface_of(tcp.address);
    return {.hosts = static_cast<int>(hosts.size()),
            .connections = tcp.connections,
            .rate_mbit = interface_rate_mbit(interface),
            .interface = interface,
            .emulated = tcp.link.emulated()};
  }

  std::vector<std::unique_ptr<Transport>> transports(JoinContext& context) const {
    std::vector<std::unique_ptr<Transport>> transports;
    const config::Comm& comm = options_.comm;
    const bool all_tcp = all_over_tcp(comm);
    if (!all_tcp) transports.push_back(make_transport("shm", context));
    for (int rank = 0; rank < world_.size; ++rank) {
      const bool reached = !all_tcp && transports[0] && rank != world_.rank && transports[0]->reaches(rank);
      if (rank != world_.rank && !reached) context.tcp.peers.push_back(rank);
    }
    if (context.tcp.peers.empty()) return transports;
    if (const std::optional<Error> lack = lack_to_connect(context.tcp)) throw Error(*lack);
    if (comm.transport == "shm") {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("comm.transport = shm, but {} shares no memory with {}: set it to auto or tcp, and "
                      "comm.throttle to nothing",
                      describe(context.roster, context.tcp.peers[0]), describe(context.roster, world_.rank)));
    }
    transports.push_back(make_transport("tcp", context));
    return transports;
  }

  // The store's thread does not use the communicator any more, so it can end.
  void let_go() {
    store_->report_progress({});
    store_->look_at_progress({});
    store_->on_failure({});
    communicator_.reset();
  }

  World world_;
  const JoinOptions options_;
  bool over_ = false;
  std::unique_ptr<StoreServer> server_;  // rank 0; outlives its own connection to it
  std::unique_ptr<Store> store_;
  std::unique_ptr<Communicator> communicator_;
  std::optional<AlgorithmTable::Link> link_;
};

}  // namespace

std::unique_ptr<Membership> join(const World& world, const JoinOptions& options) {
  if (world.size == 1) return std::make_unique<Alone>(world, options);
  return std::make_unique<Joined>(world, options);
}

}  // namespace furrow::comm
