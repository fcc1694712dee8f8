#include "furrow/data/fitted_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/memory.h"
#include "furrow/base/text.h"
#include "furrow/data/open_mixture.h"
#include "furrow/data/open_text.h"
#include "furrow/preprocess/table_encoder.h"
#include "furrow/storage/json.h"

namespace furrow::data {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr int64_t kDescribed = 8;      // samples: more would be read from a slow disk for nothing
constexpr const char* kData = "data";  // the key of a description

// A setting that decides what is fitted on a table, in words.
struct Asked {
  std::string_view key;
  std::string (*value)(const DatasetOptions&);
};

std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + json_quote(name);
  return "[" + text + "]";
}

constexpr Asked kAsked[] = {
    {"data.target", [](const DatasetOptions& o) { return o.table_rules.target; }},
    {"training.loss",
     [](const DatasetOptions& o) -> std::string {
       return o.table_rules.number_target ? "mse" : "one of classes";
     }},
    {"data.train_table", [](const DatasetOptions& o) { return o.table_train; }},
    {"data.column_names", [](const DatasetOptions& o) { return list_of(o.table_format.names); }},
    {"data.delimiter",
     [](const DatasetOptions& o) { return json_quote(std::string(1, o.table_format.delimiter)); }},
    {"data.decimal",
     [](const DatasetOptions& o) { return json_quote(std::string(1, o.table_rules.decimal)); }},
    {"data.ignore_columns", [](const DatasetOptions& o) { return list_of(o.table_format.ignored); }},
    {"data.categorical_columns", [](const DatasetOptions& o) { return list_of(o.table_rules.categorical); }},
    {"data.numeric_columns", [](const DatasetOptions& o) { return list_of(o.table_rules.numeric); }},
    {"data.date_columns", [](const DatasetOptions& o) { return list_of(o.table_rules.dates); }},
    {"data.missing_values", [](const DatasetOptions& o) { return list_of(o.table_rules.missing); }},
    {"data.trim_characters", [](const DatasetOptions& o) { return json_quote(o.table_rules.trim); }},
};

// Itself, or as a set of a mixture.
bool reads(const DatasetOptions& options, std::string_view kind) {
  return options.kind == kind ||
         (options.kind == "mixture" && std::ranges::any_of(options.mixture, [&](const std::string& entry) {
            return parse_mixture_entry(entry).kind == kind;
          }));
}

std::string asked_key(const Asked& asked) { return fmt::format("asked.{}", asked.key); }

// Of one sample, all fields.
uint64_t digest_of(const Source& source, int64_t index) {
  std::vector<Array> arrays;
  std::vector<ArrayView> views;
  for (const Field& field : source.fields()) {
    Shape shape = field.shape;
    shape.insert(shape.begin(), 1);
    arrays.emplace_back(field.dtype, shape, MemoryKind::kData);  // a batch is no smaller
    views.push_back(arrays.back().view());
  }
  source.read(std::span(&index, 1), views);
  uint64_t digest = 0;
  for (const ArrayView& view : views) digest = digest * 31 + xxh3_64(view.bytes);
  return digest;
}

std::string path_of(const std::string& run_folder) { return run_folder + "/" + std::string(kFittedFile); }

}  // namespace

std::string to_json(const Preprocessing& fitted) {
  JsonWriter json(2);
  json.begin_object();
  for (const auto& [key, value] : fitted) json.field(key, value);
  return json.end_object().text() + "\n";
}

Preprocessing parse_fitted(const std::string& text) {
  Preprocessing fitted;
  const storage::Json json = storage::parse_json(text);
  for (const auto& [key, value] : json.object()) fitted[key] = value.string();
  return fitted;
}

std::string size_of(const Source* split) {
  return split == nullptr ? "none" : fmt::format("{} samples", split->size());
}

std::string description(const Dataset& dataset) {
  const Source& train = *dataset.train;
  std::string text = fmt::format("training split: {}\nvalidation split: {}\n", size_of(&train),
                                 size_of(dataset.validation.get()));
  for (const Field& field : train.fields())
    text += fmt::format("field {}: {} {}\n", field.name, to_string(field.dtype), to_string(field.shape));
  for (int64_t i = 0; i < std::min(kDescribed, train.size()); ++i) {
    const int64_t index = i * train.size() / std::min(kDescribed, train.size());
    text += fmt::format("training sample {}: {:016x}\n", index, digest_of(train, index));
  }
  return text;
}

namespace {

std::optional<Preprocessing> read_kept(const std::string& run_folder) {
  const std::string path = path_of(run_folder);
  if (!path_exists(path)) return std::nullopt;
  try {
    return parse_fitted(read_file(path, kMostBytes));
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

}  // namespace

std::optional<Preprocessing> read_fitted(const std::string& run_folder) {
  auto kept = read_kept(run_folder);
  if (kept) kept->erase(kData);
  return kept;
}

std::optional<std::string> changed_since(const std::string& run_folder, const Dataset& dataset) {
  const auto kept = read_kept(run_folder);
  if (!kept || !kept->contains(kData)) return std::nullopt;
  const std::vector<std::string> before = split(kept->at(kData), '\n'),
                                 now = split(description(dataset), '\n');
  const auto [then, other] = std::ranges::mismatch(before, now);
  if (then == before.end() || other == now.end()) return std::nullopt;
  const size_t label = then->find(": ") + 2;
  const bool same_label = other->compare(0, label, *then, 0, label) == 0;
  return fmt::format("{} then, {} now", *then, other->substr(same_label ? label : 0));
}

void write_fitted(const std::string& run_folder, const Dataset& dataset, const DatasetOptions& options) {
  Preprocessing kept = dataset.preprocessing;
  kept[kData] = description(dataset);
  if (reads(options, "table")) {
    for (const Asked& asked : kAsked) kept[asked_key(asked)] = asked.value(options);
  }
  write_file_atomic(path_of(run_folder), to_json(kept));
}

Preprocessing unnormalised(const Preprocessing& own) {
  Preprocessing fitted{{"mean", "0"}, {"std", "1"}};
  fitted.insert(own.begin(), own.end());  // keeps what is there
  return fitted;
}

namespace {

[[noreturn]] void refuse(const std::string& key, const std::string& asked, const std::string& kept) {
  throw Error(ErrorCode::kFailedPrecondition,
              fmt::format("{} = {}, but the run goes on with what it fitted at its beginning, {}: leave the "
                          "key as it was, or train another run",
                          key, asked, kept));
}

void check_tokenizer(const DatasetOptions& options, const Preprocessing& kept, const std::string& kind) {
  if (!reads(options, "text") || !is_tokenizer_kind(kind)) return;
  if (options.tokenizer != kind) refuse("[data] tokenizer", options.tokenizer, "tokenizer = " + kind);
  if (options.tokenizer_path.empty()) return;
  Preprocessing asked;
  try {
    asked = tokenizer_from_file(options);
  } catch (const Error&) {  // gone or damaged: it is not read
    return;
  }
  for (const auto& [key, value] : asked) {
    const auto found = kept.find(key);
    if (found == kept.end() || found->second != value)
      refuse("[data] tokenizer_path", options.tokenizer_path.string(),
             "another tokenizer of the kind " + kind);
  }
}

void check_normalised(const DatasetOptions& options, const Preprocessing& kept) {
  const bool normalised = kept != unnormalised(kept);
  if (normalised && !options.normalize) refuse("[data] normalize", "false", "normalize = true");
  const bool own_values =
      options.kind == "pack" || options.kind == "mixture";  // whatever those of a pack are
  if (!normalised && options.normalize && !own_values)
    refuse("[data] normalize", "true", "normalize = false");
}

// Runs of earlier versions have kept none of these.
void check_table(const DatasetOptions& options, const Preprocessing& kept) {
  if (!reads(options, "table")) return;
  for (const Asked& asked : kAsked) {
    const auto found = kept.find(asked_key(asked));
    const std::string now = asked.value(options);
    if (found != kept.end() && found->second != now)
      refuse(std::string(asked.key), now, fmt::format("{} = {}", asked.key, found->second));
  }
  const std::string target = preprocess::load_as<preprocess::TableEncoder>(kept)->target().name;
  if (options.table_rules.target != target)
    refuse("data.target", options.table_rules.target, "data.target = " + target);
}

}  // namespace

void check_kept(const DatasetOptions& options, const Preprocessing& kept) {
  const auto kind = kept.find("kind");
  if (kind == kept.end()) return;
  check_tokenizer(options, kept, kind->second);
  if (kind->second == "image") check_normalised(options, kept);
  if (kind->second == "table") check_table(options, kept);
}

}  // namespace furrow::data
