#include "furrow/comm/join.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "furrow/base/clock.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/comm/descriptors.h"
#include "furrow/comm/meeting.h"
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

Roster roster_of(int rank, const std::vector<Member>& members) {
  Roster roster{rank, {}};
  for (const Member& member : members) roster.ranks.push_back({member.host, member.pid, member.locality});
  return roster;
}

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
  result.start_timeout_ms = options.comm.init_timeout_seconds * kMsPerSecond;
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

// Connections to each peer, the port where they come in, and what wakes threads.
std::optional<Error> lack_to_connect(const TcpOptions& tcp) {
  constexpr uint64_t kBesides = 4;
  const auto per_peer = static_cast<uint64_t>(tcp.connections) + 1;
  return lack_of_descriptors(tcp.peers.size() * per_peer + kBesides,
                             fmt::format("be connected to {} ranks over TCP", tcp.peers.size()));
}

bool spans_hosts(const std::vector<Member>& members) {
  return std::ranges::any_of(members, [&](const Member& m) { return m.machine != members[0].machine; });
}

class Joined : public Membership {
 public:
  Joined(World world, const JoinOptions& options) : world_(std::move(world)), options_(options) {
    allow_descriptors(descriptors_for(world_.size, options_.comm));
    const int64_t deadline_ns =
        system_clock().monotonic_ns() + options_.comm.init_timeout_seconds * kSecondNs;
    const Secret secret(world_.token);
    meet(secret, self_of(world_, options_.config), deadline_ns);
    count_locally(world_, store_->members());
    warn_of_made_up_token();
    connect(deadline_ns);
    store_->ignore_interrupts();
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
  void meet(const Secret& secret, const Member& self, int64_t deadline_ns) try {
    const int64_t silence_ms = options_.comm.train_timeout_seconds * kSilenceMsPerSecond;
    StoreAddress where{world_.master_address, rendezvous_ports(world_)};
    std::optional<Error> stays_away = reason_not_to_come(world_, options_.comm);
    if (stays_away) stays_away.emplace(stays_away->code(), named(self, stays_away->what()));
    if (world_.rank == 0) {
      server_ = open_store(world_, secret, self, silence_ms, stays_away);
      where.ports = {server_->endpoint().port};
    } else if (stays_away) {
      tell_rank_zero(world_, secret, self, *stays_away, deadline_ns, options_.cancel);
    }
    if (stays_away) throw Error(*stays_away);
    store_ = std::make_unique<Store>(where, secret, self, silence_ms, deadline_ns, options_.cancel);
  } catch (const Error& error) {
    if (server_) {
      server_->refuse(error);
      tell_whoever_comes(*server_, error, deadline_ns, options_.cancel);
    }
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

  // A failure here is told to the others as any other is, also one of the system.
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
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    store_->fail(known != nullptr ? *known : Error(ErrorCode::kInternal, error.what()));
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
