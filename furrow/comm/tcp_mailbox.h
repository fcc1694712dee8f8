// Where the frames of one peer go: into the buffer of a posted receive, or, when that is not posted yet, into
// memory of our own until it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/comm/frame.h"
#include "furrow/comm/wire_counts.h"

namespace furrow::comm {

// A posted receive.
struct TcpReceive {
  Envelope envelope;
  std::span<std::byte> bytes;
  uint64_t message = 0;
  uint64_t received = 0;
  bool arrived = false;  // every byte is there
  int64_t ready_ns = 0;  // with an emulated link: not before (unix time)
  std::optional<Error> mismatch;
};

// A frame on its way in: its payload goes to `target`, straight into a posted buffer or into `early`.
struct IncomingFrame {
  FrameHeader header;
  std::span<std::byte> target;
  std::vector<std::byte> early;
};

// Of one peer.  Belongs to one thread at a time.
class TcpMailbox {
 public:
  static constexpr size_t kMostEarlyBytes = size_t{256} << 20;

  // `wire`: counts what reaches a receive, so what comes early belongs to the operation that takes it.
  TcpMailbox(int rank, int peer, WireCounts& wire) : rank_(rank), peer_(peer), wire_(wire) {}

  // The buffer lives until the receive has arrived or was removed.
  void post(TcpReceive* receive);
  void remove(TcpReceive* receive);
  size_t posted_bytes() const { return posted_bytes_; }  // of receives that have not arrived

  // False: nobody waits for it and too much is early already; try again after the next post.
  bool begin(IncomingFrame& frame);
  // REQUIRES: the payload is in frame.target and its checksum was verified.
  void finish(IncomingFrame& frame, int64_t ready_ns);

 private:
  struct EarlyFrame {
    FrameHeader header;
    std::vector<std::byte> bytes;
    int64_t ready_ns;
  };
  struct Channel {
    uint64_t next_receive = 0;
    std::map<uint64_t, TcpReceive*> posted;             // by message
    std::map<uint64_t, std::vector<EarlyFrame>> early;  // by message
  };

  TcpReceive* find(const FrameHeader& header);
  bool fits(TcpReceive& receive, const FrameHeader& header) const;
  void deliver(TcpReceive& receive, const FrameHeader& header, int64_t ready_ns);

  int rank_;
  int peer_;
  WireCounts& wire_;
  std::map<uint64_t, Channel> channels_;
  size_t posted_bytes_ = 0;
  size_t early_bytes_ = 0;
};

}  // namespace furrow::comm
