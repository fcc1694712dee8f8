// Numbers and JSON as text, the same on every machine and in every locale.  Functions are pure and thread
// safe.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace furrow {

std::string format_double(double value);               // shortest that reads back equal; "nan", "inf", "-inf"
std::string format_double(float value);                // shortest as a float: 0.1f is "0.1"
std::string format_fixed(double value, int decimals);  // "3.142"
std::string format_bytes(uint64_t bytes);              // "512 B", "1.5 KiB", "3.2 GiB"
std::string format_count(int64_t value);               // "1,234,567"
std::string format_seconds(double seconds);  // "850 us", "12.3 ms", "4.56 s", "3 m 20 s", "2 h 05 m"

// The whole of `text` as a number; false when it is not one.
bool parse_double(std::string_view text, double& value);
bool parse_int(std::string_view text, int64_t& value);
// "65536", "256MiB", "1.5 GB": a number of bytes with B, kB, MB, GB, TB (powers of 1,000), KiB, MiB, GiB or
// TiB.
bool parse_bytes(std::string_view text, uint64_t& bytes);

std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::vector<std::string> split(std::string_view text,
                               char separator);                    // "a,,b" is {"a", "", "b"}; "" is {""}
std::string_view trim(std::string_view text);                      // spaces, tabs and line ends
bool is_utf8(std::string_view text);                               // RFC 3629
bool glob_match(std::string_view pattern, std::string_view name);  // * any run, ? any one character

// `text` between double quotes with JSON's escapes.  Bytes that are not UTF-8 become U+FFFD, so the result is
// JSON.
std::string json_quote(std::string_view text);

// Writes JSON append-only; commas and quoting are its own.  JSON has no NaN and no infinity: both become
// null.
//   JsonWriter json;
//   json.begin_object().key("step").value(3).key("dims").begin_array().value(1).end_array().end_object();
// Wrong nesting is a FURROW_CHECK.
class JsonWriter {
 public:
  explicit JsonWriter(int indent = 0) : indent_(indent) {}  // 0: one line

  JsonWriter& begin_object();
  JsonWriter& end_object();
  JsonWriter& begin_array();
  JsonWriter& end_array();
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(double number);
  JsonWriter& value(float number);
  JsonWriter& value(bool truth);
  template <std::integral T>
  JsonWriter& value(T number) {
    return number_text(std::to_string(number));
  }
  JsonWriter& null();
  JsonWriter& raw(std::string_view json);  // a value that is JSON already

  template <class T>
  JsonWriter& field(std::string_view name, const T& content) {
    return key(name).value(content);
  }

  const std::string& text() const;  // REQUIRES: every object and array is closed

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  JsonWriter& number_text(std::string_view text);
  void before_value();
  void new_line();

  std::string text_;
  std::string open_;  // the closing brackets to come
  int indent_;
  bool first_ = true;
  bool after_key_ = false;
};

}  // namespace furrow
