// The "pack" kind: a folder that `furrow data pack` wrote.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/data/fitted_values.h"
#include "furrow/data/open_images.h"
#include "furrow/data/open_mixture.h"
#include "furrow/data/packed_source.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/records.h"
#include "furrow/data/source_kinds.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

using storage::PackAccess;
using storage::PackInfo;
using storage::PackReader;

constexpr int kStreamReaders = 4;  // wait for a disk at once, where nothing is said

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

// All that a pack holds, or one set of a mixture.
struct PackedSet {
  std::string name;  // for messages
  storage::PackPart part;
  std::string suffix;  // of its splits
  const PackedLayout* layout;
  std::vector<Field> fields;  // of a record
};

PackedSet set_of(const PackInfo& info, std::string name, const storage::PackPart& part, std::string suffix) {
  const storage::PackSplit* const train = info.find("train" + suffix);
  if (train == nullptr) damaged(fmt::format("it has no split 'train{}'", suffix));
  PackedSet set{std::move(name), part, std::move(suffix), &packed_layout(part.layout), {}};
  for (const storage::PackField& field : train->fields.empty() ? info.fields : train->fields)
    set.fields.push_back({field.name, field.dtype, field.shape});
  return set;
}

struct Pack {
  PackInfo info;
  std::vector<PackedSet> sets;  // of a mixture, or one
};

std::vector<PackedSet> sets_of(const PackInfo& info) {
  if (info.parts.empty() == (info.layout == kMixedRecords))
    damaged(fmt::format("its layout is {}, with {} parts", info.layout, info.parts.size()));
  if (info.parts.empty()) return {set_of(info, "the pack", {"", 1, info.layout}, "")};
  std::vector<PackedSet> sets;
  for (size_t i = 0; i < info.parts.size(); ++i) {
    const storage::PackPart& part = info.parts[i];
    sets.push_back(set_of(info, fmt::format("set '{}'", part.name), part, part_suffix(i)));
  }
  return sets;
}

Pack read_pack(const DatasetOptions& options) {
  Pack pack{storage::read_pack(options.path.string()), {}};
  try {
    pack.sets = sets_of(pack.info);
  } catch (const Error& error) {
    throw error.with_context(options.path.string());
  }
  for (const PackedSet& set : pack.sets) {
    if (!options.disjoint_windows || set.layout->name == kTokenRecords) continue;
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[data] windows = disjoint cuts a text that is one stream of tokens, and {} holds "
                    "{}: leave windows out",
                    options.path.string(), set.layout->name));
  }
  return pack;
}

// Earlier versions stored a mixture as samples of its first epoch.
void say_what_is_fixed(const PackInfo& info, const std::string& path) {
  if (info.kind != "mixture" || info.layout != kSampleRecords) return;
  log_warning(
      fmt::format("{}: an earlier version of furrow has packed one epoch of a mixture, which every epoch "
                  "repeats: pack its sets again to train as from themselves",
                  path));
}

uint64_t bytes_of(const PackInfo& info) {
  uint64_t bytes = 0;
  for (const storage::PackSplit& split : info.splits) {
    bytes += static_cast<uint64_t>(split.records()) * info.record_bytes(split);
  }
  return bytes;
}

PackAccess access_of(const PackInfo& info, uint64_t budget) {
  const uint64_t bytes = bytes_of(info);
  return budget > 0 && bytes > budget ? PackAccess::kStreamed : PackAccess::kMapped;
}

bool is_images(const PackedSet& set) { return set.layout->images; }

bool decodes(const PackedSet& set) { return set.layout->decodes; }

// One class a record: no tokens, no number.
bool is_labelled(const PackedSet& set) {
  const bool samples = set.layout->name == kSampleRecords && set.fields.size() > 1;
  return is_images(set) || (samples && set.fields[1].dtype == DType::kI64 && set.fields[1].shape.empty());
}

// Without what its classes are called, which earlier versions did not write down.
Preprocessing unnamed(Preprocessing fitted) {
  fitted.erase(preprocess::kClassNames);
  return fitted;
}

// Error{invalid_argument} unless records of the pack mean what they meant for `fitted`.
void check_fitted(const Pack& pack, const DatasetOptions& options, const Preprocessing& fitted) {
  const std::string path = options.path.string();
  const Preprocessing& own = pack.info.preprocessing;
  if (std::ranges::any_of(pack.sets, is_labelled))
    check_class_names(preprocess::class_names(fitted), preprocess::class_names(own), path);
  if (std::ranges::all_of(pack.sets, is_images) || unnamed(fitted) == unnamed(own)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} was packed with another vocabulary or other fitted values: pack its source "
                          "with those of the other data",
                          path));
}

// What was fitted earlier, else what the pack carries; without normalising if the options say so.
Preprocessing fitted_for(const Pack& pack, const DatasetOptions& options,
                         const Preprocessing* preprocessing) {
  if (preprocessing != nullptr) {
    check_fitted(pack, options, *preprocessing);
    return *preprocessing;
  }
  const Preprocessing& own = pack.info.preprocessing;
  return std::ranges::all_of(pack.sets, is_images) && !options.normalize ? unnormalised(own) : own;
}

// What says where each sample of `split` ends.
PackReader open_index(const DatasetOptions& options, const PackInfo& info, std::string_view split,
                      const std::vector<Field>& expected) {
  const std::string name = fmt::format("{}{}", split, kEndsSuffix);
  const storage::PackSplit* const found = info.find(name);
  if (found == nullptr) damaged("it has no split " + name);
  std::vector<Field> fields;
  for (const storage::PackField& field : found->fields)
    fields.push_back({field.name, field.dtype, field.shape});
  if (fields != expected) damaged("records of " + name + " have other fields");
  return PackReader(options.path.string(), info, *found, PackAccess::kStreamed);
}

Dataset open_set(const Pack& pack, const PackedSet& set, const DatasetOptions& options,
                 const Preprocessing& fitted) {
  const PackAccess access =
      set.layout->decodes ? PackAccess::kStreamed : access_of(pack.info, options.memory_budget);
  const auto open = [&](const std::string& name, Split split) -> std::unique_ptr<Source> {
    const storage::PackSplit* const found = pack.info.find(name + set.suffix);
    if (found == nullptr) return nullptr;
    PackedSplit packed{set.name, set.fields, options, fitted, split, pack.info.lineage};
    if (set.layout->index != nullptr)
      packed.index.emplace(open_index(options, pack.info, found->name, set.layout->index()));
    return set.layout->open(PackReader(options.path.string(), pack.info, *found, access), std::move(packed));
  };
  set.layout->fields(set.fields, options, pack.info.lineage);  // checks them before any shard is opened
  return {.train = open("train", Split::kTrain),
          .validation = open("validation", Split::kValidation),
          .test = open("test", Split::kTest),
          .preprocessing = fitted};
}

Dataset open_sets(const Pack& pack, const DatasetOptions& options, const Preprocessing& fitted) {
  if (pack.info.parts.empty()) return open_set(pack, pack.sets[0], options, fitted);
  std::vector<OpenedSet> opened;
  for (const PackedSet& set : pack.sets)
    opened.push_back({set.part.name, set.part.weight, open_set(pack, set, options, fitted)});
  return mix(std::move(opened), options);
}

}  // namespace

Dataset open_pack(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const Pack pack = read_pack(options);
  say_what_is_fixed(pack.info, options.path.string());
  Dataset dataset;
  try {
    dataset = open_sets(pack, options, fitted_for(pack, options, preprocessing));
  } catch (const Error& error) {
    throw error.with_context(options.path.string());
  }
  const bool decoded = std::ranges::any_of(pack.sets, decodes);
  const bool streamed = access_of(pack.info, options.memory_budget) == PackAccess::kStreamed;
  const int readers = readers_of(options, streamed, decoded);
  if (readers == 1) return dataset;
  const auto pool = std::make_shared<ReaderPool>(readers);
  for (std::unique_ptr<Source>* const split : {&dataset.train, &dataset.validation, &dataset.test}) {
    if (*split == nullptr) continue;
    *split =
        std::make_unique<ParallelSource>(std::move(*split), pool, decoded ? RowCost::kWork : RowCost::kWaits);
  }
  return dataset;
}

int readers_of(const DatasetOptions& options, bool streamed, bool decoded) {
  if (options.readers > 0) return options.readers;
  if (decoded) return core_count();
  return streamed ? kStreamReaders : 1;
}

uint64_t pack_bytes(const DatasetOptions& options) { return bytes_of(read_pack(options).info); }

bool pack_decodes(const DatasetOptions& options) {
  return std::ranges::any_of(read_pack(options).sets, decodes);
}

DataInfo probe_pack(const DatasetOptions& options) {
  const Pack pack = read_pack(options);
  const PackedSet& set = pack.sets[0];
  if (pack.sets.size() > 1 || set.layout->samples == nullptr) {
    const Dataset dataset = open_pack(options, nullptr);
    return {dataset.train->fields(), dataset.train->classes(), dataset.train->size()};
  }
  std::string counted = "train" + set.suffix;
  if (set.layout->index != nullptr) counted += kEndsSuffix;
  const storage::PackSplit* const split = pack.info.find(counted);
  if (split == nullptr) damaged(fmt::format("{}: it has no split {}", options.path.string(), counted));
  return {set.layout->fields(set.fields, options, pack.info.lineage), packed_classes(pack.info.preprocessing),
          set.layout->samples(split->records(), options)};
}

}  // namespace furrow::data
