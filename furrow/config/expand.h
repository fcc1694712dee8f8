// ${NAME} and ${NAME:-default} in strings of a configuration.
#pragma once

#include <string>
#include <string_view>

namespace furrow::config {

// A default may hold others.  $${ stands for a plain ${.  `context` goes in front of errors:
// Error{invalid_argument} for a variable that is neither set nor has a default (it is named), an empty name,
// or a missing brace.
std::string expand_environment(std::string_view text, const std::string& context);

}  // namespace furrow::config
