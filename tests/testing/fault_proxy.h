// A TCP proxy that misbehaves on demand: delay, loss as a stream shows it, damage (what a link without
// checksums would do), partition (nothing passes, nothing closes) and cut (both sides are closed).
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

namespace furrow::testing {

class FaultProxy {
 public:
  // Listens on a loopback port and passes every connection on to 127.0.0.1:`target_port`.
  explicit FaultProxy(int target_port);
  ~FaultProxy();
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  int port() const { return port_; }
  void set_delay_ns(int64_t ns) { delay_ns_ = ns; }  // of every piece, each way
  // Above TCP nothing is ever lost: a lost packet is a time-out of its sender, during which what came behind
  // it waits too.  So each piece (up to 64 KiB) is held for `timeout_ns` with probability `rate`, in order.
  // Packets are lost by tests/multiprocess/fault_switch.cc.
  void set_loss(double rate, int64_t timeout_ns) {
    timeout_ns_ = timeout_ns;
    loss_ = rate;
  }
  int64_t lost() const { return lost_; }
  void damage_after(int64_t bytes) { damage_after_ = bytes; }  // one bit of the byte after so many, over all
  void partition(bool on) { partitioned_ = on; }
  void cut() { cut_ = true; }
  int64_t passed() const { return passed_; }

 private:
  struct Flow;
  void run(const std::stop_token& stop);
  int64_t hold_ns(int64_t byte);

  int target_port_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int64_t> delay_ns_{0}, damage_after_{-1}, passed_{0}, timeout_ns_{0}, lost_{0};
  std::atomic<double> loss_{0};
  std::atomic<bool> partitioned_{false}, cut_{false};
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace furrow::testing
