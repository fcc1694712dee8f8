// Any text is a number, a date, neither or looks like one; what is read is in range and read alike with
// either sign before its decimals.
#include <algorithm>
#include <cmath>
#include <string>

#include "furrow/base/error.h"
#include "furrow/data/text_shape.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  using namespace furrow::data;
  const std::string text(reinterpret_cast<const char*>(data), size);
  double days = 0, point = 0, comma = 0;
  const bool date = days_of(text, days);
  FURROW_CHECK(!date || (days >= -719163 && days < 2932898), "a day outside of the calendar");
  for (const char decimal : {'.', ','}) {
    const TextShape shape = shape_of(text, decimal);
    FURROW_CHECK(date == (shape == TextShape::kDate), "a date of another shape");
    FURROW_CHECK((shape == TextShape::kOther) == remedy_of(shape, decimal).empty(),
                 "a shape without a remedy");
  }
  std::string other = text;
  for (char& c : other) c = c == '.' ? ',' : c == ',' ? '.' : c;
  const bool with_point = finite_number(text, '.', point), with_comma = finite_number(other, ',', comma);
  FURROW_CHECK(with_point == with_comma, "a number with one sign alone");
  FURROW_CHECK(!with_point || (std::isfinite(point) && point == comma), "another number with the other sign");
  return 0;
}
