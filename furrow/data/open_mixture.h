// The entries of [data] mixture.
#pragma once

#include <string>

namespace furrow::data {

struct MixtureEntry {
  std::string name;   // not empty
  std::string kind;   // of source_kinds(), no mixture
  double weight = 0;  // above 0, finite
  std::string path;   // not empty
};

// "name: kind weight=W path=P"; the path comes last and may hold spaces.  Error{invalid_argument} shows the
// entry in one line.
MixtureEntry parse_mixture_entry(const std::string& text);

}  // namespace furrow::data
