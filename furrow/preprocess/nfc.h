// Unicode's normal form C: letters composed with their marks (Unicode Standard Annex 15), by utf8proc.
#pragma once

#include <string>
#include <string_view>

namespace furrow::preprocess {

// The same text whatever its letters were composed of.  REQUIRES: UTF-8.  Thread safe.
std::string to_nfc(std::string_view text);

// Surely in that form already, by a look at its bytes: no character is of those that marks are among.
bool surely_nfc(std::string_view text);

}  // namespace furrow::preprocess
