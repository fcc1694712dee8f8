#include "furrow/comm/tcp_stream.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

iovec piece(const std::byte* data, size_t size) { return {const_cast<std::byte*>(data), size}; }

}  // namespace

void TcpStream::start_frame(const FrameHeader& header, std::span<const std::byte> payload) {
  FURROW_CHECK(!sending_);
  out_header_ = to_bytes(header);
  out_payload_ = payload;
  out_sent_ = 0;
  sending_ = true;
}

bool TcpStream::push() {
  const size_t all = out_header_.size() + out_payload_.size();
  while (!broken_ && out_sent_ < all) {
    iovec pieces[2];
    msghdr message{};
    message.msg_iov = pieces;
    if (out_sent_ < out_header_.size()) {
      pieces[message.msg_iovlen++] = piece(out_header_.data() + out_sent_, out_header_.size() - out_sent_);
    }
    const size_t payload_sent = out_sent_ - std::min(out_sent_, out_header_.size());
    if (payload_sent < out_payload_.size()) {
      pieces[message.msg_iovlen++] =
          piece(out_payload_.data() + payload_sent, out_payload_.size() - payload_sent);
    }
    const ssize_t count = sendmsg(socket_.descriptor(), &message, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      broken_ = errno != EAGAIN && errno != EWOULDBLOCK;
      return false;
    }
    out_sent_ += static_cast<size_t>(count);
  }
  sending_ = broken_;
  return !broken_;
}

size_t TcpStream::take_ahead(std::span<std::byte> target) {
  const size_t count = std::min(target.size(), ahead_end_ - ahead_begin_);
  if (count > 0) std::memcpy(target.data(), ahead_.data() + ahead_begin_, count);
  ahead_begin_ += count;
  if (ahead_begin_ == ahead_end_) ahead_begin_ = ahead_end_ = 0;
  return count;
}

// Into `target`, and what follows it into the empty read-ahead buffer, in one call.  False when nothing is
// there.
bool TcpStream::receive(std::span<std::byte> target, size_t& received) {
  iovec pieces[2] = {piece(target.data(), target.size()), piece(ahead_.data(), ahead_.size())};
  const size_t skip = target.empty() ? 1 : 0;
  ssize_t count = 0;
  do {
    count = readv(socket_.descriptor(), pieces + skip, static_cast<int>(2 - skip));
  } while (count < 0 && errno == EINTR);
  if (count <= 0) {
    broken_ = count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
    return false;
  }
  received = std::min(target.size(), static_cast<size_t>(count));
  ahead_end_ = static_cast<size_t>(count) - received;
  return true;
}

bool TcpStream::read_header() {
  while (ahead_end_ - ahead_begin_ < sizeof(FrameHeader)) {
    if (broken_) return false;
    std::memmove(ahead_.data(), ahead_.data() + ahead_begin_, ahead_end_ - ahead_begin_);
    ahead_end_ -= ahead_begin_;
    ahead_begin_ = 0;
    const ssize_t count =
        recv(socket_.descriptor(), ahead_.data() + ahead_end_, ahead_.size() - ahead_end_, 0);
    if (count <= 0) {
      broken_ = count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
      return false;
    }
    ahead_end_ += static_cast<size_t>(count);
  }
  FrameHeaderBytes bytes;
  take_ahead(bytes);
  frame_ = {};
  frame_.header = parse_frame_header(bytes);
  has_header_ = true;
  payload_received_ = 0;
  return true;
}

TcpStream::Pull TcpStream::pull() {
  if (!has_header_) return read_header() ? Pull::kHeader : Pull::kNothing;
  payload_received_ += take_ahead(frame_.target.subspan(payload_received_));
  while (payload_received_ < frame_.target.size()) {
    size_t received = 0;
    if (broken_ || !receive(frame_.target.subspan(payload_received_), received)) return Pull::kNothing;
    payload_received_ += received;
  }
  has_header_ = false;
  if (hash_payload(frame_.target) != frame_.header.payload_hash) {
    throw Error(ErrorCode::kDataLoss,
                "the checksum of a frame differs: the network, or a machine's memory, damaged it");
  }
  return Pull::kFrame;
}

}  // namespace furrow::comm
