// All that the tcp transport has for one peer: its data connections, what is on its way out, and its mailbox.
#pragma once

#include <poll.h>

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "furrow/comm/link.h"
#include "furrow/comm/socket.h"
#include "furrow/comm/tcp_mailbox.h"
#include "furrow/comm/tcp_stream.h"

namespace furrow::comm {

// A posted send.
struct TcpSend {
  Envelope envelope;
  std::span<const std::byte> bytes;
  uint64_t message = 0;
  size_t started = 0;  // bytes handed to streams
  size_t gone = 0;     // bytes whose frames have gone
  bool done = false;
};

// Belongs to one thread at a time.
class TcpPeer {
 public:
  // `wire`: of the transport; it outlives this.
  TcpPeer(int rank, int peer, std::vector<Socket> data, WireCounts& wire);

  void post(TcpSend* send);
  void post(TcpReceive* receive) { mailbox_.post(receive); }

  // What can go and come now.  `link`: emulated, or null.  True when anything moved.  Error{data_loss}.
  bool push(EmulatedLink* link, size_t frame_bytes);
  bool pull(EmulatedLink* link);

  bool ended() const;       // a connection is broken
  bool has_output() const;  // not yet with the system
  size_t posted_bytes() const { return mailbox_.posted_bytes(); }
  const std::optional<PeerProgress>& heard_of() const { return heard_of_; }  // by its last frame
  void add_polls(std::vector<pollfd>& polls) const;

 private:
  struct Lane {
    TcpStream stream;
    TcpSend* send = nullptr;  // whose frame is on its way
    size_t frame_bytes = 0;
  };

  bool start_frame(Lane& lane, EmulatedLink* link, size_t frame_bytes);
  void finish_frame(Lane& lane);
  bool pull_lane(Lane& lane, EmulatedLink* link);

  std::vector<Lane> lanes_;
  std::deque<TcpSend*> queue_;              // with bytes not yet handed to a stream
  std::map<uint64_t, uint64_t> next_send_;  // by channel
  TcpMailbox mailbox_;
  std::optional<PeerProgress> heard_of_;
  WireCounts& wire_;
};

}  // namespace furrow::comm
