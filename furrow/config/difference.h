// Where two configurations part, told from their texts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace furrow::config {

struct Difference {
  std::string key;   // "optimizer.lr"
  std::string a, b;  // the values as TOML, cut when long; "nothing" where the key is not there
};

// The first key, in the order of `a` (then of `b`), whose values are not alike.  Each text may be anything:
// lines "[section]" and "key = value" count (to_toml), all others do not; what is given back is short and
// printable.  Nothing when no such line differs.
std::optional<Difference> first_difference(std::string_view a, std::string_view b);

}  // namespace furrow::config
