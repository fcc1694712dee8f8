// One data connection of the tcp transport: frames out, frames in, as far as the system takes and gives them
// now.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "furrow/comm/frame.h"
#include "furrow/comm/socket.h"
#include "furrow/comm/tcp_mailbox.h"

namespace furrow::comm {

// Belongs to one thread at a time.
class TcpStream {
 public:
  explicit TcpStream(Socket socket) : socket_(std::move(socket)) {}

  int descriptor() const { return socket_.descriptor(); }
  bool broken() const { return broken_; }  // ended, or failed: nothing more comes or goes

  // ---- Out ----
  bool sending() const { return sending_; }
  // REQUIRES: not sending.  The payload lives until the frame has gone.
  void start_frame(const FrameHeader& header, std::span<const std::byte> payload);
  bool push();  // true once the frame has gone

  // ---- In ----
  enum class Pull {
    kNothing,  // nothing more there now
    kHeader,   // frame() has a header; set its target, then go on
    kFrame,    // frame() has its payload too, and its checksum is right
  };
  Pull pull();  // Error{data_loss} on damage
  IncomingFrame& frame() { return frame_; }
  void set_held(bool held) { held_ = held; }  // the header waits for room
  bool held() const { return held_; }

 private:
  static constexpr size_t kReadAhead = 4096;  // of headers and small payloads

  bool read_header();
  bool receive(std::span<std::byte> target, size_t& received);
  size_t take_ahead(std::span<std::byte> target);

  Socket socket_;
  bool broken_ = false;

  bool sending_ = false;
  FrameHeaderBytes out_header_{};
  std::span<const std::byte> out_payload_;
  size_t out_sent_ = 0;  // header included

  IncomingFrame frame_;
  bool has_header_ = false;
  bool held_ = false;
  size_t payload_received_ = 0;
  std::array<std::byte, kReadAhead> ahead_;
  size_t ahead_begin_ = 0;
  size_t ahead_end_ = 0;
};

}  // namespace furrow::comm
