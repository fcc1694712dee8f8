// How the records of a pack become samples: a row per layout (records.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/storage/pack.h"

namespace furrow::data {

using Lineage = std::map<std::string, std::string>;

// One split of a pack, or of a set in it.
struct PackedSplit {
  std::string name;           // of the set, for messages
  std::vector<Field> fields;  // of a record
  const DatasetOptions& options;
  const Preprocessing& fitted;
  Split split;
  const Lineage& lineage;                         // of the pack
  std::optional<storage::PackReader> index = {};  // where the layout has one
};

struct PackedLayout {
  std::string_view name;
  std::unique_ptr<Source> (*open)(storage::PackReader reader, PackedSplit packed);
  // Of a sample, from those of a record.  Error{data_loss}: they are none of this layout.
  std::vector<Field> (*fields)(std::span<const Field> record, const DatasetOptions& options,
                               const Lineage& lineage);
  // Of the training split, from its records or, where there is one, those of its index; null: as many as an
  // opened one has.
  int64_t (*samples)(int64_t records, const DatasetOptions& options);
  std::vector<Field> (*index)() = nullptr;  // fields of the split that says where each sample ends, if any
  bool images = false;                      // fitted values may be others than those of the pack
  bool decodes = false;                     // image files: read into memory of their own, by every core
};

// Error{unimplemented} lists the known ones.
const PackedLayout& packed_layout(std::string_view name);

// "classes" of the fitted values.  Error{data_loss}: no count.
int64_t packed_classes(const Preprocessing& fitted);

}  // namespace furrow::data
