// The entries of [data] mixture, and what becomes of them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"

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

struct OpenedSet {
  std::string name;
  double weight = 0;
  Dataset splits;
};

// Training samples by weight (mixture.h), shuffled as the options say; what is held back one set after
// another.  Fitted values are those of the first.  Error{invalid_argument}: sets of different samples, one
// that is a mixture itself, a weight of less than one sample.
Dataset mix(std::vector<OpenedSet> sets, const DatasetOptions& options);

}  // namespace furrow::data
