#include "furrow/comm/tcp_peer.h"

#include <algorithm>

#include "furrow/base/clock.h"

namespace furrow::comm {
namespace {

// Of one connection, before the others and the other direction have theirs: what is sent at once is read by
// the peer while it is in a cache.
constexpr int kFramesPerTurn = 2;

}  // namespace

TcpPeer::TcpPeer(int rank, int peer, std::vector<Socket> data, WireCounts& wire)
    : mailbox_(rank, peer, wire), wire_(wire) {
  for (Socket& socket : data) lanes_.push_back({TcpStream(std::move(socket))});
}

void TcpPeer::post(TcpSend* send) {
  send->message = next_send_[send->envelope.channel]++;
  queue_.push_back(send);
}

bool TcpPeer::start_frame(Lane& lane, EmulatedLink* link, size_t frame_bytes) {
  if (queue_.empty()) return false;
  TcpSend& send = *queue_.front();
  const auto payload =
      send.bytes.subspan(send.started).first(std::min(frame_bytes, send.bytes.size() - send.started));
  FrameHeader header;
  if (link != nullptr) {
    const int64_t now = system_clock().unix_ns();
    if (now < link->next_start_ns()) return false;
    header.departed_ns = link->depart(now, static_cast<int64_t>(sizeof header + payload.size()));
  }
  header.bytes = static_cast<uint32_t>(payload.size());
  header.message = send.message;
  header.total = send.bytes.size();
  header.offset = send.started;
  header.payload_hash = hash_payload(payload);
  header.envelope = send.envelope;
  lane.stream.start_frame(header, payload);
  lane.send = &send;
  lane.frame_bytes = payload.size();
  send.started += payload.size();
  if (send.started == send.bytes.size()) queue_.pop_front();
  return true;
}

void TcpPeer::finish_frame(Lane& lane) {
  lane.send->gone += lane.frame_bytes;
  lane.send->done = lane.send->gone == lane.send->bytes.size();
  wire_.add(lane.send->envelope.channel,
            {.sent = static_cast<int64_t>(lane.frame_bytes), .overhead_sent = sizeof(FrameHeader)});
  lane.send = nullptr;
}

bool TcpPeer::push(EmulatedLink* link, size_t frame_bytes) {
  bool moved = false;
  for (Lane& lane : lanes_) {
    for (int i = 0; i < kFramesPerTurn && !lane.stream.broken(); ++i) {
      if (!lane.stream.sending() && !start_frame(lane, link, frame_bytes)) break;
      if (!lane.stream.push()) break;
      finish_frame(lane);
      moved = true;
    }
  }
  return moved;
}

bool TcpPeer::pull_lane(Lane& lane, EmulatedLink* link) {
  TcpStream& stream = lane.stream;
  bool moved = false;
  for (int frames = 0; frames < kFramesPerTurn;) {
    if (stream.held()) {
      if (!mailbox_.begin(stream.frame())) return moved;
      stream.set_held(false);
    }
    switch (stream.pull()) {
      case TcpStream::Pull::kNothing:
        return moved;
      case TcpStream::Pull::kHeader:
        stream.set_held(true);
        break;
      case TcpStream::Pull::kFrame:
        const FrameHeader& header = stream.frame().header;
        const auto on_wire = static_cast<int64_t>(sizeof(FrameHeader) + header.bytes);
        mailbox_.finish(stream.frame(), link != nullptr ? link->arrive(header.departed_ns, on_wire) : 0);
        heard_of_ = {header.envelope, PeerProgress::How::kHeardOf, system_clock().monotonic_ns()};
        moved = true;
        ++frames;
        break;
    }
  }
  return moved;
}

bool TcpPeer::pull(EmulatedLink* link) {
  bool moved = false;
  for (Lane& lane : lanes_) moved = pull_lane(lane, link) || moved;
  return moved;
}

bool TcpPeer::ended() const {
  return std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.stream.broken(); });
}

bool TcpPeer::has_output() const {
  return !queue_.empty() ||
         std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.stream.sending(); });
}

void TcpPeer::add_polls(std::vector<pollfd>& polls) const {
  for (const Lane& lane : lanes_) {
    if (lane.stream.broken()) continue;
    const int events = (lane.stream.held() ? 0 : POLLIN) | (lane.stream.sending() ? POLLOUT : 0);
    if (events != 0) polls.push_back({lane.stream.descriptor(), static_cast<int16_t>(events), 0});
  }
}

}  // namespace furrow::comm
