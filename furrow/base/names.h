// "unknown optimizer 'adamv': did you mean 'adamw'? known: adamw, sgd"
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace furrow {

// The known name at the smallest edit distance, or "" when nothing is near.
std::string nearest_name(std::string_view name, std::span<const std::string> known);

// The whole message; `what` is "optimizer", "key in [training]", ...
std::string unknown_name_message(std::string_view what, std::string_view name,
                                 std::span<const std::string> known);

}  // namespace furrow
