#include "furrow/comm/tcp_mailbox.h"

#include <algorithm>
#include <cstring>

namespace furrow::comm {

void TcpMailbox::post(TcpReceive* receive) {
  Channel& channel = channels_[receive->envelope.channel];
  receive->message = channel.next_receive++;
  channel.posted.emplace(receive->message, receive);
  posted_bytes_ += receive->bytes.size();
  const auto early = channel.early.extract(receive->message);
  if (early.empty()) return;
  for (const EarlyFrame& frame : early.mapped()) {
    early_bytes_ -= frame.bytes.size();
    if (!fits(*receive, frame.header)) continue;
    if (!frame.bytes.empty()) {
      std::memcpy(receive->bytes.data() + frame.header.offset, frame.bytes.data(), frame.bytes.size());
    }
    deliver(*receive, frame.header, frame.ready_ns);
  }
}

void TcpMailbox::remove(TcpReceive* receive) {
  if (channels_[receive->envelope.channel].posted.erase(receive->message) != 0) {
    posted_bytes_ -= receive->bytes.size();
  }
}

TcpReceive* TcpMailbox::find(const FrameHeader& header) {
  Channel& channel = channels_[header.envelope.channel];
  const auto found = channel.posted.find(header.message);
  return found == channel.posted.end() ? nullptr : found->second;
}

// Is the frame of the message that is waited for?  Otherwise the receive has failed.
bool TcpMailbox::fits(TcpReceive& receive, const FrameHeader& header) const {
  if (receive.envelope == header.envelope && receive.bytes.size() == header.total) return true;
  if (!receive.mismatch) receive.mismatch = mismatch_error(rank_, receive.envelope, peer_, header.envelope);
  return false;
}

bool TcpMailbox::begin(IncomingFrame& frame) {
  TcpReceive* receive = find(frame.header);
  if (receive != nullptr && fits(*receive, frame.header)) {
    frame.target = receive->bytes.subspan(frame.header.offset, frame.header.bytes);
    return true;
  }
  if (receive == nullptr && early_bytes_ + frame.header.bytes > kMostEarlyBytes) return false;
  early_bytes_ += frame.header.bytes;
  frame.early.resize(frame.header.bytes);
  frame.target = frame.early;
  return true;
}

void TcpMailbox::finish(IncomingFrame& frame, int64_t ready_ns) {
  const bool was_early = !frame.early.empty() || frame.header.bytes == 0;
  TcpReceive* receive = find(frame.header);
  if (receive == nullptr) {  // nobody waits for it, or nobody any more
    if (!was_early) return;
    channels_[frame.header.envelope.channel].early[frame.header.message].push_back(
        {frame.header, std::move(frame.early), ready_ns});
    return;
  }
  early_bytes_ -= frame.early.size();
  if (!fits(*receive, frame.header)) return;
  if (!frame.early.empty()) {
    std::memcpy(receive->bytes.data() + frame.header.offset, frame.early.data(), frame.early.size());
  }
  deliver(*receive, frame.header, ready_ns);
}

void TcpMailbox::deliver(TcpReceive& receive, const FrameHeader& header, int64_t ready_ns) {
  receive.received += header.bytes;
  wire_.add(receive.envelope.channel, {.received = header.bytes, .overhead_received = sizeof(FrameHeader)});
  receive.ready_ns = std::max(receive.ready_ns, ready_ns);
  if (receive.received < receive.bytes.size()) return;
  receive.arrived = true;
  remove(&receive);
}

}  // namespace furrow::comm
