// A meeting point of threads of one process; also the store of a world of one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

#include "furrow/base/error.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

// Thread safe.
class LocalRendezvous : public Rendezvous {
 public:
  void set(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(mutex_);
    values_[key] = value;
    changed_.notify_all();
  }
  std::string get(const std::string& key, int64_t deadline_ns) override {
    std::unique_lock lock(mutex_);
    wait_for(key, deadline_ns, lock);
    return values_[key];
  }
  std::string take(const std::string& key, int64_t deadline_ns) override {
    std::unique_lock lock(mutex_);
    wait_for(key, deadline_ns, lock);
    return values_.extract(key).mapped();
  }

 private:
  void wait_for(const std::string& key, int64_t deadline_ns, std::unique_lock<std::mutex>& lock) {
    const std::chrono::steady_clock::time_point deadline{std::chrono::nanoseconds(deadline_ns)};
    if (changed_.wait_until(lock, deadline, [&] { return values_.contains(key); })) return;
    throw Error(ErrorCode::kDeadlineExceeded, "no rank has set '" + key + "' in time");
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

}  // namespace furrow::comm
