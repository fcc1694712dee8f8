// Numbers and texts as bytes: little-endian, lengths in front.  Reading never goes beyond the bytes and
// allocates no more than they hold; what does not parse is Error{data_loss}.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "furrow/base/error.h"

namespace furrow::comm {

class WireWriter {
 public:
  template <class T>
  WireWriter& number(T value) {
    static_assert(std::is_integral_v<T>);
    for (size_t i = 0; i < sizeof(T); ++i) {
      text_ += static_cast<char>(static_cast<std::make_unsigned_t<T>>(value) >> (8 * i));
    }
    return *this;
  }
  WireWriter& text(std::string_view value) {
    number(static_cast<uint32_t>(value.size()));
    text_ += value;
    return *this;
  }
  const std::string& bytes() const { return text_; }

 private:
  std::string text_;
};

class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}

  template <class T>
  T number() {
    static_assert(std::is_integral_v<T>);
    const std::string_view bytes = take(sizeof(T));
    std::make_unsigned_t<T> value = 0;
    for (size_t i = sizeof(T); i-- > 0;) {
      value = static_cast<std::make_unsigned_t<T>>((uint64_t{value} << 8) | static_cast<uint8_t>(bytes[i]));
    }
    return static_cast<T>(value);
  }
  std::string text() { return std::string(take(number<uint32_t>())); }
  void end() const {
    if (!rest_.empty()) throw Error(ErrorCode::kDataLoss, "a message has bytes after its end");
  }

 private:
  std::string_view take(size_t count) {
    if (count > rest_.size()) throw Error(ErrorCode::kDataLoss, "a message ends before its last field");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
};

}  // namespace furrow::comm
