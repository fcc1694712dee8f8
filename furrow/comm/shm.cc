// Processes of one host.  Each rank announces its control block through the rendezvous; the others open it,
// and later the segments that messages point into, through /proc/PID/fd.  A pidfd tells of a peer's end.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/comm/descriptors.h"
#include "furrow/comm/shared_transport.h"
#include "furrow/comm/shm_segments.h"
#include "furrow/comm/transports.h"

namespace furrow::comm {
namespace {

// A peer as this rank sees it.
struct Peer {
  int64_t pid = 0;
  int pidfd = -1;  // of another process
  std::shared_ptr<SharedFile> control;
  struct Mapping {
    uint32_t id = 0;
    std::unique_ptr<SharedFile> file;
  };
  std::vector<Mapping> segments;

  Peer() = default;
  Peer(Peer&& other) noexcept
      : pid(other.pid),
        pidfd(std::exchange(other.pidfd, -1)),
        control(std::move(other.control)),
        segments(std::move(other.segments)) {}
  Peer& operator=(Peer&&) = delete;
  ~Peer() {
    if (pidfd >= 0) ::close(pidfd);
  }
};

class ShmTransport : public SharedTransport {
 public:
  ShmTransport(Roster roster, std::vector<Control*> controls, std::vector<Peer> peers,
               std::shared_ptr<SegmentPool> pool)
      : SharedTransport(std::move(roster), std::move(controls)),
        peers_(std::move(peers)),
        pool_(std::move(pool)) {}
  ~ShmTransport() override { leave(); }

  std::string_view name() const override { return "shm"; }
  std::unique_ptr<Memory::Block> allocate(size_t bytes) override { return pool_->allocate(bytes); }
  bool is_registered(std::span<const std::byte> bytes) const override {
    return bytes.empty() || pool_->locate(bytes).has_value();
  }

 private:
  std::optional<Location> locate(std::span<const std::byte> bytes) const override {
    const auto place = pool_->locate(bytes);
    if (!place) return std::nullopt;
    return Location{place->segment, place->offset};
  }

  std::byte* resolve(int rank, Location location, uint64_t bytes) override {
    Peer& peer = peers_[static_cast<size_t>(rank)];
    for (const Peer::Mapping& mapping : peer.segments) {
      if (mapping.id == location.segment) return mapping.file->data() + location.offset;
    }
    SegmentEntry* entries = control(rank).segments;
    std::erase_if(peer.segments,
                  [&](const Peer::Mapping& m) { return entries[m.id % kSegments].id.load() != m.id; });
    const SegmentEntry& entry = entries[location.segment % kSegments];
    FURROW_CHECK(entry.id.load() == location.segment && location.offset + bytes <= entry.bytes.load());
    peer.segments.push_back({location.segment, std::make_unique<SharedFile>(peer.pid, entry.descriptor.load(),
                                                                            entry.bytes.load())});
    return peer.segments.back().file->data() + location.offset;
  }

  bool died(int rank) override {
    const int descriptor = peers_[static_cast<size_t>(rank)].pidfd;
    pollfd poll_for = {descriptor, POLLIN, 0};
    return descriptor >= 0 && poll(&poll_for, 1, 0) > 0;
  }

  std::vector<Peer> peers_;
  std::shared_ptr<SegmentPool> pool_;
};

// "PID DESCRIPTOR BYTES"
std::string announcement(const SharedFile& file) {
  return fmt::format("{} {} {}", process_id(), file.descriptor(), file.size());
}

Peer open_peer(const std::string& announced, size_t control_size) {
  const std::vector<std::string> words = split(announced, ' ');
  int64_t pid = 0, descriptor = 0, bytes = 0;
  if (words.size() != 3 || !parse_int(words[0], pid) || !parse_int(words[1], descriptor) ||
      !parse_int(words[2], bytes) || static_cast<size_t>(bytes) != control_size) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("a rank of this host announces '{}': all ranks run the same furrow", announced));
  }
  Peer peer;
  peer.pid = pid;
  if (pid != process_id()) {
    peer.pidfd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
    if (peer.pidfd < 0) {
      if (out_of_descriptors(errno)) throw descriptor_error(errno, "watch the ranks of this host");
      throw Error(ErrorCode::kUnavailable,
                  fmt::format("cannot watch process {}: {}", pid, std::strerror(errno)));
    }
  }
  peer.control = std::make_shared<SharedFile>(pid, static_cast<int>(descriptor), control_size);
  return peer;
}

struct Join {
  const JoinContext& context;
  std::vector<int> local;  // ranks of this host but the own one
  std::shared_ptr<SharedFile> own = nullptr;
  std::vector<Peer> peers = {};
  std::vector<Control*> controls = {};

  void announce() {
    const int size = context.roster.size();
    own = std::make_shared<SharedFile>("furrow-control", control_bytes(size));
    controls.resize(static_cast<size_t>(size));
    peers.resize(static_cast<size_t>(size));
    controls[static_cast<size_t>(context.roster.rank)] = make_control(own->data());
    context.rendezvous->set(fmt::format("shm/control/{}", context.roster.rank), announcement(*own));
  }

  // "" or why a peer cannot be seen.
  std::string open_all() {
    try {
      for (const int r : local) {
        const std::string announced =
            context.rendezvous->get(fmt::format("shm/control/{}", r), context.deadline_ns);
        Peer peer = open_peer(announced, own->size());
        controls[static_cast<size_t>(r)] = reinterpret_cast<Control*>(peer.control->data());
        peers[static_cast<size_t>(r)].pid = peer.pid;
        std::swap(peers[static_cast<size_t>(r)].pidfd, peer.pidfd);
        peers[static_cast<size_t>(r)].control = std::move(peer.control);
      }
      return "";
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kDeadlineExceeded) throw;
      return error.what();
    }
  }

  // All or none, so that both ends of each wire agree; and nobody goes before everybody has looked.
  bool agree(const std::string& trouble) {
    context.rendezvous->set(fmt::format("shm/joined/{}", context.roster.rank), "." + trouble);
    std::string first = trouble;
    for (const int r : local) {
      const std::string theirs =
          context.rendezvous->get(fmt::format("shm/joined/{}", r), context.deadline_ns);
      if (first.empty()) first = theirs.substr(1);
    }
    if (!first.empty()) log_warning(fmt::format("ranks of this host do without shared memory: {}", first));
    return first.empty();
  }
};

}  // namespace

std::string shm_locality() {
  struct stat status = {};
  if (stat("/proc/self/ns/pid", &status) != 0) return "";
  try {
    return fmt::format("{}/{}/{}", trim(read_file("/proc/sys/kernel/random/boot_id")), status.st_ino,
                       geteuid());
  } catch (const Error&) {
    return "";
  }
}

std::unique_ptr<Transport> make_shm(const JoinContext& context) {
  if (context.rendezvous == nullptr) return nullptr;
  Join join{.context = context, .local = {}};
  const auto& ranks = context.roster.ranks;
  const std::string& here = ranks[static_cast<size_t>(context.roster.rank)].locality;
  for (int r = 0; r < context.roster.size(); ++r) {
    if (r != context.roster.rank && !here.empty() && ranks[static_cast<size_t>(r)].locality == here)
      join.local.push_back(r);
  }
  if (join.local.empty()) return nullptr;
  join.announce();
  if (!join.agree(join.open_all())) return nullptr;
  auto pool =
      std::make_shared<SegmentPool>(join.own, join.controls[static_cast<size_t>(context.roster.rank)]);
  return std::make_unique<ShmTransport>(context.roster, std::move(join.controls), std::move(join.peers),
                                        std::move(pool));
}

}  // namespace furrow::comm
