// Numbers and dates that are texts: how they are read, and what texts that are neither look like.  Pure;
// thread safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace furrow::data {

// The whole of `text` as a finite number with `decimal` ('.' or ',') before its decimals; false: it is none.
bool finite_number(std::string_view text, char decimal, double& value);

// A date or a time of ISO 8601, in days since 1970-01-01: "2024-02-29", and behind it a time of day
// ("T12:30", " 12:30:00.5") and a zone ("Z", "+01", "-0330", "+05:45"), of UTC then.  Years from 0001 to
// 9999. False: it is none.
bool days_of(std::string_view text, double& days);

// What people write for a number or a date that would make categories of its own.
enum class TextShape : uint8_t {
  kOther,
  kDate,       // as days_of() reads it
  kLocalDate,  // "31.12.2024", "12/31/24", "2024/12/31", also with a time of day
  kTimeOfDay,  // "12:30", "12:30:59"
  kDecimals,   // the other sign before its decimals: "3,14"
  kGroups,     // thousands set off: "1.234.567,8", "1'000", "1 000 000"
  kEither,     // one of the two: "1,234"
  kUnit,       // with a sign of money or per cent: "$3.20", "15 %"
};
TextShape shape_of(std::string_view text, char decimal);

// What is wrong with a text of that shape, and what to do: "a date: list the column in data.date_columns";
// empty of kOther.
std::string remedy_of(TextShape shape, char decimal);

}  // namespace furrow::data
