// A TCP proxy that misbehaves on demand: delay, damage (what a lossy link without checksums would do),
// partition (nothing passes, nothing closes) and cut (both sides are closed).
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
  void set_delay_ns(int64_t ns) { delay_ns_ = ns; }            // of every piece, each way
  void damage_after(int64_t bytes) { damage_after_ = bytes; }  // one bit of the byte after so many, over all
  void partition(bool on) { partitioned_ = on; }
  void cut() { cut_ = true; }
  int64_t passed() const { return passed_; }

 private:
  struct Flow;
  void run(const std::stop_token& stop);

  int target_port_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int64_t> delay_ns_{0}, damage_after_{-1}, passed_{0};
  std::atomic<bool> partitioned_{false}, cut_{false};
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace furrow::testing
