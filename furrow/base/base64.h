// Bytes as text and back (RFC 4648, with padding).  Thread safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace furrow {

std::string to_base64(std::string_view bytes);
std::optional<std::string> from_base64(std::string_view text);  // nothing when it is no base64

}  // namespace furrow
