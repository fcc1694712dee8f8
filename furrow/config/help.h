// Help and reference, generated from the declarations of the sections.
#pragma once

#include <string>
#include <string_view>

namespace furrow::config {

// `name` is "" (all sections), "training" (its keys) or "training.steps" (everything about it; the bare key
// will do where only one section has it).  Error{not_found} names the nearest.
std::string help(std::string_view name);

// docs/config.md.
std::string reference_markdown();

}  // namespace furrow::config
