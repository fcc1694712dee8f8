// Unicode's normal form C: letters composed with their marks (Unicode Standard Annex 15).
#pragma once

#include <string>
#include <string_view>

namespace furrow::preprocess {

// The same text whatever its letters were composed of.  REQUIRES: UTF-8.  Thread safe.
std::string to_nfc(std::string_view text);

// Surely in that form already: nothing to compose, to take apart or to put in order.  Texts of most languages
// are.
bool surely_nfc(std::string_view text);

}  // namespace furrow::preprocess
