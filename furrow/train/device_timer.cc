#include <algorithm>
#include <cmath>
#include <utility>

#include "furrow/train/device_timer_torch.h"

namespace furrow::train {
namespace {

constexpr int kWarmUps = 20, kTimed = 20;  // calls of `occupy`: clocks rise meanwhile
// More would fill the device's queue, in which there is to be room for instructions.
constexpr int64_t kMostCalls = 400;

}  // namespace

DeviceTimer::DeviceTimer(const c10::Device& device, std::function<void()> occupy)
    : guard_(device.type()), device_(device), occupy_(std::move(occupy)) {
  for (int i = 0; i < kWarmUps; ++i) occupy_();
  const size_t begin = record();
  for (int i = 0; i < kTimed; ++i) occupy_();
  const size_t end = record();
  wait();
  occupied_ns_ = std::max(1.0, events_[begin]->elapsedTime(*events_[end]) * 1e6 / kTimed);
}

void DeviceTimer::wait() const { guard_.synchronizeStream(guard_.getDefaultStream(device_)); }

void DeviceTimer::begin(int64_t ahead_ns) {
  ahead_ns_ = ahead_ns;
  used_ = 0;
  marks_.clear();
  occupy_ahead();
}

void DeviceTimer::mark(int32_t instruction, bool awaited) {
  const size_t after = record();
  const bool caught_up = awaited || events_[last_]->query();
  marks_.push_back({instruction, last_, after});
  last_ = after;
  if (caught_up) occupy_ahead();
}

std::vector<DeviceTimer::Time> DeviceTimer::end() {
  wait();
  std::vector<Time> times;
  for (const Mark& mark : marks_)
    times.push_back({mark.instruction, events_[mark.before]->elapsedTime(*events_[mark.after]) * 1e-3});
  return times;
}

void DeviceTimer::occupy_ahead() {
  const auto calls = static_cast<int64_t>(std::ceil(static_cast<double>(ahead_ns_) / occupied_ns_));
  for (int64_t i = 0; i < std::clamp<int64_t>(calls, 1, kMostCalls); ++i) occupy_();
  last_ = record();
}

size_t DeviceTimer::record() {
  if (used_ == events_.size())
    events_.push_back(std::make_unique<c10::Event>(device_.type(), c10::EventFlag::BACKEND_DEFAULT));
  events_[used_]->record(guard_.getDefaultStream(device_));
  return used_++;
}

}  // namespace furrow::train
