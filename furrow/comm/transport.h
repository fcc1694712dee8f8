// The seam below the collectives: messages between the ranks of a world.  comm/transports.cc is the table of
// transports; algorithms (comm/algorithms/) use nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/comm/collective.h"
#include "furrow/comm/memory.h"
#include "furrow/comm/tcp_options.h"
#include "furrow/comm/wire_counts.h"

namespace furrow::comm {

// Goes in front of each message, as these 64 bytes (little-endian; a wire format sends them as they are). The
// receiver expects an envelope and gets one; unless they are equal, the two ranks do not run the same
// operation, and the transport throws mismatch_error(), which names both.
struct Envelope {
  uint64_t channel = 0;  // the group; messages of different channels do not wait for each other
  uint64_t sequence =
      0;  // number of the operation in its group; of a send or recv, number in its pair and direction
  uint32_t step = 0;  // message within the operation
  uint8_t kind = 0;   // CollectiveKind; kSend for send and recv
  uint8_t dtype = 0;
  uint8_t reduction = 0;
  uint8_t algorithm = 0;  // row of the table of algorithms
  int32_t root = -1;
  uint32_t counts_hash = 0;  // of element count and slices
  int64_t elements = 0;
  char label[24] = {};  // cut when longer, not terminated when full
  friend bool operator==(const Envelope& a, const Envelope& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }
};
static_assert(sizeof(Envelope) == 64 && std::has_unique_object_representations_v<Envelope>);

std::string describe(const Envelope& e);  // "reduce_scatter 'reduce_grads h.3' #57 of 1024 float32 (sum)"
// Error{failed_precondition}: "rank 0 runs X, rank 1 runs Y: ..."
Error mismatch_error(int rank, const Envelope& mine, int peer, const Envelope& theirs);

class ProgressNote;  // comm/progress_note.h

// How far a peer is, as seen from here.
struct PeerProgress {
  enum class How : uint8_t {
    kBegun,
    kFinished,
    kHeardOf
  };  // kHeardOf: by its last message; it may be further
  Envelope operation;
  How how = How::kBegun;
  int64_t at_ns = 0;  // Clock::monotonic_ns
};

// Up to this a message is one that is copied, wherever its bytes are: seeing them in place would cost more.
inline constexpr size_t kInlineBytes = 4096;

// A posted operation.  0 is complete from the start.
struct Ticket {
  int peer = -1;
  uint64_t id = 0;
};

// A peer's bytes, readable (and writable where the peer exposed them so) until closed.
struct Window {
  std::span<std::byte> bytes;
  int peer = -1;
  uint64_t id = 0;
};

// Refers to what is to be done with the bytes of a message where they lie; that outlives it.
class Reader {
 public:
  template <class Fn>
  explicit Reader(const Fn& fn)
      : fn_(&fn), call_([](const void* f, const std::byte* bytes) { (*static_cast<const Fn*>(f))(bytes); }) {}
  void operator()(const std::byte* bytes) const { call_(fn_, bytes); }

 private:
  const void* fn_;
  void (*call_)(const void*, const std::byte*);
};

// What transports of one host can do besides: no copy on the way.
class PeerMemory {
 public:
  virtual ~PeerMemory() = default;

  // Can bytes of this span be seen by peers without staging?
  virtual bool is_registered(std::span<const std::byte> bytes) const = 0;
  // Like post_send, but the peer may also write: it opens the bytes, and they are complete when it closes
  // them. REQUIRES: is_registered(bytes).
  virtual Ticket post_expose(int peer, const Envelope& envelope, std::span<std::byte> bytes) = 0;
  // The next message of the peer on the channel, seen in place, instead of post_recv; waits for it.  Errors
  // as wait().
  virtual Window open(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns) = 0;
  // An exposed window counts as written whole.
  virtual void close(const Window& window) = 0;
  // open(), read and close() in one, for a message of up to kInlineBytes: `reader` is brief, calls nothing of
  // the transport, and is called once.
  virtual void read(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns,
                    const Reader& reader) = 0;
};

// One rank's end of the wires to the peers that it reaches.  Thread safe; the messages of one channel belong
// to one thread at a time.
//
// Messages of one pair and channel arrive in the order in which they were posted.  A posted operation moves
// on without anybody waiting for it: the transport has a thread of its own, or the peer fetches the bytes.
// Waiting for a ticket of one transport must never keep another one from moving.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;
  virtual bool reaches(int peer) const = 0;

  // Buffers live until the ticket was waited for (a send's bytes are then with the peer, or copied).
  virtual Ticket post_send(int peer, const Envelope& envelope, std::span<const std::byte> bytes) = 0;
  // Of exactly that size; another one is mismatch_error().
  virtual Ticket post_recv(int peer, const Envelope& envelope, std::span<std::byte> bytes) = 0;
  // Throws Error{deadline_exceeded} at the deadline (Clock::monotonic_ns), Error{unavailable} when the peer
  // is gone, failed_precondition on a mismatch, the reason after an abort.  Each names the peer.
  virtual void wait(Ticket ticket, int64_t deadline_ns) = 0;

  // post_recv and wait in one.  REQUIRES: no receive from that peer on that channel is posted.
  virtual void receive(int peer, const Envelope& envelope, std::span<std::byte> bytes, int64_t deadline_ns) {
    wait(post_recv(peer, envelope, bytes), deadline_ns);
  }

  // From now on, until share() is called, one thread at a time posts and waits, each after the one before it
  // has told so.  REQUIRES: before the first post.
  virtual void take_turns() {}
  virtual void share() {}

  virtual PeerMemory* peer_memory() { return nullptr; }
  // Memory that this transport reads without a copy; null where it has no such thing.
  virtual std::unique_ptr<Memory::Block> allocate(size_t bytes) = 0;

  // Ends every pending and later wait of this rank and, as far as this transport reaches them, of its peers,
  // with `reason`.  The first reason stays.
  virtual void abort(const Error& reason) noexcept = 0;
  // Called, from any thread and at most once, when the transport learns of an abort by a peer or of a peer's
  // end; within this call when it has learned of one before: peers are at work as soon as they are reached.
  // REQUIRES: set before the first post.
  virtual void on_failure(std::function<void(const Error&)> handler) = 0;
  // For a thread that waits elsewhere: calls the handler now when only a waiting thread would hear of an
  // abort.
  virtual void listen() {}

  // Where the communicator notes what this rank does, so that peers see it for their errors; null where they
  // do not.  It lives as long as the transport.
  virtual ProgressNote* progress_note() { return nullptr; }
  // What a peer, which this transport reaches, was at; nothing where it is not known.
  virtual std::optional<PeerProgress> progress_of(int peer) const {
    (void)peer;
    return std::nullopt;
  }
  virtual const WireCounts& wire() const = 0;
};

// ---- How a rank's transports come to be ----

// Meeting point before there are wires.  The rendezvous store implements it.
class Rendezvous {
 public:
  virtual ~Rendezvous() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  virtual std::string get(const std::string& key,
                          int64_t deadline_ns) = 0;  // waits; Error{deadline_exceeded}
  // The same for messages to one reader: nobody else reads it, so it need not be kept.
  virtual std::string take(const std::string& key, int64_t deadline_ns) { return get(key, deadline_ns); }
  virtual void check_alive() const {}  // throws the failure of a rank, once it is known
};

// Where this process can share memory with others: machine, process namespace and user; "" where that cannot
// be told.
std::string shm_locality();

struct RankInfo {
  std::string host;  // for people
  int64_t pid = 0;
  std::string locality;  // ranks with equal, non-empty locality can share memory: shm_locality()
};

struct Roster {
  int rank = 0;
  std::vector<RankInfo> ranks;  // one per rank of the world
  int size() const { return static_cast<int>(ranks.size()); }
};

// "rank 3 (host a, pid 4711)"
std::string describe(const Roster& roster, int rank);
// The reason of an abort as the peers of `rank`, which tells it, give it: with that rank's name in front
// unless it names a rank already (what went wrong outside an operation does not say where).
Error told_by(const Roster& roster, int rank, const Error& reason);

class InprocWorld;  // comm/inproc.h: what ranks that are threads of one process share

struct JoinContext {
  Roster roster;
  Rendezvous* rendezvous = nullptr;  // null where all ranks are threads of this process and inproc suffices
  std::shared_ptr<InprocWorld> inproc = {};  // null between processes
  int64_t deadline_ns = 0;
  std::string job_token = {};  // guards connections; shm needs none (the kernel checks the user)
  TcpOptions tcp = {};
};

struct TransportRow {
  std::string_view name;  // "shm"
  std::string_view summary;
  std::unique_ptr<Transport> (*make)(const JoinContext& context);
};
std::span<const TransportRow> transport_rows();
std::unique_ptr<Transport> make_transport(std::string_view name, const JoinContext& context);

}  // namespace furrow::comm
