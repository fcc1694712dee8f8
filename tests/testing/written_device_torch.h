// A device of c10's interface whose streams and events write down what is asked of them.
#pragma once

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace furrow::testing {

// Its default stream is 0, that of the pool 7; an event whose maker is somebody else is an int that is its
// name.  Between two of them 2 ms pass.
class WrittenDevice final : public c10::impl::DeviceGuardImplInterface {
 public:
  static constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
  static c10::Device device() { return {kType, 0}; }

  WrittenDevice() { c10::impl::device_guard_impl_registry[static_cast<size_t>(kType)].store(this); }
  ~WrittenDevice() override {
    c10::impl::device_guard_impl_registry[static_cast<size_t>(kType)].store(nullptr);
  }

  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 0; }
  c10::Stream getStream(c10::Device) const override { return stream(current_); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(7); }
  c10::Stream exchangeStream(c10::Stream next) const override {
    log.push_back(fmt::format("on {}", next.id()));
    return stream(std::exchange(current_, next.id()));
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr) {
      events_.push_back(std::make_unique<int>(static_cast<int>(events_.size())));
      *event = events_.back().get();
    }
    log.push_back(fmt::format("record {} on {}", name(*event), stream.id()));
  }
  void block(void* event, const c10::Stream& stream) const override {
    log.push_back(fmt::format("{} waits for {}", stream.id(), name(event)));
  }
  bool queryEvent(void* event) const override { return name(event) <= landed; }
  void synchronizeEvent(void* event) const override {
    log.push_back(fmt::format("wait for {}", name(event)));
    landed = std::max(landed, name(event));
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    log.push_back(fmt::format("wait for stream {}", stream.id()));
    landed = static_cast<int>(events_.size()) - 1;
  }
  double elapsedTime(void*, void*, const c10::DeviceIndex) const override { return 2; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}

  mutable std::vector<std::string> log;
  mutable int landed = -1;  // the last event that has

 private:
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, device(), id); }
  static int name(const void* event) { return *static_cast<const int*>(event); }

  mutable c10::StreamId current_ = 0;
  mutable std::vector<std::unique_ptr<int>> events_;
};

}  // namespace furrow::testing
