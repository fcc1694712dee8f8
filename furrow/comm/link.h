// A slower network than there is: rate and delay of each rank's link, for honest experiments on one machine.
//
// Store and forward: a frame leaves when the link has carried its last byte, and is there one delay later,
// when the receiver's link has carried it too.  Times are of the wall clock, so between machines the delay is
// as good as their clocks agree.  An object belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <string_view>

namespace furrow::comm {

struct LinkSpec {
  double bytes_per_second = 0;  // 0: as fast as it goes
  int64_t delay_ns = 0;         // one way
  bool emulated() const { return bytes_per_second > 0 || delay_ns > 0; }
};

// "100Mbit,2ms", "10Gbit", "500us"; "" is no emulation.  Error{invalid_argument} names comm.throttle and the
// units.
LinkSpec parse_link(std::string_view text);

class EmulatedLink {
 public:
  explicit EmulatedLink(LinkSpec spec) : spec_(spec) {}

  // When the next frame may be handed to the system.
  int64_t next_start_ns() const { return out_free_ns_; }

  // Takes the time that the frame needs on this rank's way out (a token bucket: of an idle link, the last
  // milliseconds count); the moment at which its last byte departs.
  int64_t depart(int64_t now_ns, int64_t bytes);

  // ... and on its way in; the moment at which its last byte has arrived.
  int64_t arrive(int64_t departed_ns, int64_t bytes);

 private:
  int64_t duration_ns(int64_t bytes) const;

  LinkSpec spec_;
  int64_t out_free_ns_ = 0;
  int64_t in_free_ns_ = 0;
};

}  // namespace furrow::comm
