#include "furrow/comm/link.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/text.h"

namespace furrow::comm {
namespace {

constexpr int64_t kBucketNs = 5'000'000;  // a sender that wakes late makes up for it

struct Unit {
  std::string_view name;
  double factor;
};
constexpr Unit kRates[] = {
    {"Gbit", 1e9 / 8}, {"Mbit", 1e6 / 8}, {"Kbit", 1e3 / 8}, {"bit", 1.0 / 8}};  // longest first
constexpr Unit kDelays[] = {{"ms", 1e6}, {"us", 1e3}, {"s", 1e9}};

template <size_t N>
bool read(std::string_view text, const Unit (&units)[N], double& value) {
  for (const Unit& unit : units) {
    if (!text.ends_with(unit.name)) continue;
    const std::string_view number = text.substr(0, text.size() - unit.name.size());
    if (!parse_double(number, value) || !(value > 0)) return false;
    value *= unit.factor;
    return true;
  }
  return false;
}

}  // namespace

LinkSpec parse_link(std::string_view text) {
  LinkSpec spec;
  if (text.empty()) return spec;
  for (const std::string& word : split(text, ',')) {
    const std::string_view part = trim(word);
    double value = 0;
    if (spec.bytes_per_second == 0 && read(part, kRates, value)) {
      spec.bytes_per_second = value;
    } else if (spec.delay_ns == 0 && read(part, kDelays, value)) {
      spec.delay_ns = static_cast<int64_t>(value);
    } else {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("comm.throttle = '{}': '{}' is neither a rate (bit, Kbit, Mbit, Gbit per second) nor a "
                      "delay (us, ms, s): write for example '100Mbit,2ms'",
                      text, part));
    }
  }
  return spec;
}

int64_t EmulatedLink::duration_ns(int64_t bytes) const {
  return spec_.bytes_per_second > 0
             ? static_cast<int64_t>(static_cast<double>(bytes) * 1e9 / spec_.bytes_per_second)
             : 0;
}

int64_t EmulatedLink::depart(int64_t now_ns, int64_t bytes) {
  out_free_ns_ = std::max(out_free_ns_, now_ns - kBucketNs) + duration_ns(bytes);
  return std::max(out_free_ns_, now_ns);
}

int64_t EmulatedLink::arrive(int64_t departed_ns, int64_t bytes) {
  const int64_t duration = duration_ns(bytes);
  in_free_ns_ = std::max(in_free_ns_, departed_ns - duration) + duration;
  return in_free_ns_ + spec_.delay_ns;
}

}  // namespace furrow::comm
