// The one table of data set kinds.
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/data/binary_targets.h"
#include "furrow/data/files.h"
#include "furrow/data/image_file.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/table_files.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

bool is_cifar10(const fs::path& path) { return !find_file(path / "data_batch_1.bin").empty(); }
bool is_idx(const fs::path& path) { return !find_file(path / "train-images-idx3-ubyte").empty(); }
bool is_mixture(const fs::path&) { return false; }  // a list, not a place
bool is_pack(const fs::path& path) { return fs::exists(path / storage::kPackFile); }
bool is_text(const fs::path& path) {
  const fs::path plain = path.extension() == ".gz" ? path.stem() : path;
  return plain.extension() == ".txt" && !find_file(path).empty();
}

constexpr SourceKind kSourceKinds[] = {
    {"cifar10", "CIFAR-10 in its binary version", &open_cifar10, &probe_cifar10, &is_cifar10},
    {"folder", "images in a folder per class: PNG, JPEG, WebP", &open_folder, &probe_folder,
     &is_image_folder},
    {"idx", "labelled images in the files of MNIST and Fashion-MNIST", &open_idx, &probe_idx, &is_idx},
    {"mixture", "several sets, each with a share of every epoch", &open_mixture, &probe_mixture, &is_mixture},
    {"pack", "a folder that `furrow data pack` wrote", &open_pack, &probe_pack, &is_pack},
    {"table", "rows of CSV or Parquet files", &open_table, &probe_table, &is_table},
    {"text", "text of one or more files, as characters, bytes or subwords", &open_text, &probe_text,
     &is_text},
};

const SourceKind& kind_of(const DatasetOptions& options) {
  if (options.path.empty() && options.kind != "mixture") {
    throw Error(ErrorCode::kInvalidArgument,
                "[training] dataset_path is empty: docs/datasets.md says where each data set comes from");
  }
  std::vector<std::string> known;
  for (const SourceKind& kind : kSourceKinds) {
    if (kind.name == options.kind) return kind;
    known.emplace_back(kind.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("[training] dataset", options.kind, known));
}

}  // namespace

std::span<const SourceKind> source_kinds() { return kSourceKinds; }

namespace {

// What the file system refuses, as an Error like any other.
template <class Act>
auto reading(const fs::path& data, const Act& act) {
  try {
    return act();
  } catch (const fs::filesystem_error& error) {
    const fs::path& path = error.path1().empty() ? data : error.path1();
    throw errno_error(error.code().value(), "read", path.string());
  }
}

// A folder whose images lie side by side is nearly an image folder.
std::string what_it_lacks(const fs::path& path) {
  if (!fs::is_directory(path)) return "";
  for (const auto& entry : fs::directory_iterator(path)) {
    if (!is_image_name(entry.path().filename().string())) continue;
    return fmt::format(
        "; it holds images, such as {}, but an image folder (docs/datasets.md) has one folder per "
        "class with the images of that class in it, here or in train/",
        entry.path().filename().string());
  }
  return "";
}

}  // namespace

std::string guess_kind(const fs::path& path) {
  return reading(path, [&] {
    std::vector<std::string> known;
    for (const SourceKind& kind : kSourceKinds) {
      if (kind.recognises(path)) return std::string(kind.name);
      known.emplace_back(kind.name);
    }
    if (!fs::exists(path)) throw Error(ErrorCode::kNotFound, fmt::format("there is no {}", path.string()));
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("cannot tell what kind of data {} is: say so with --training.dataset, one of {}{}",
                    path.string(), join(known, ", "), what_it_lacks(path)));
  });
}

namespace {

TableRules table_rules(const config::Config& config) {
  const config::Data& data = config.data;
  return {.target = data.target,
          .number_target = config.training.loss == "mse",
          .categorical = data.categorical_columns,
          .numeric = data.numeric_columns,
          .dates = data.date_columns,
          .missing = data.missing_values,
          .trim = data.trim_characters,
          .decimal = data.decimal.front(),
          .ignore_unseen = data.unseen_category == "ignore"};
}

}  // namespace

DatasetOptions dataset_options(const config::Config& config) {
  const config::Data& data = config.data;
  return {.kind = config.training.dataset,
          .path = config.training.dataset_path,
          .validation_fraction = data.validation_fraction,
          .test_fraction = data.test_fraction,
          .seed = static_cast<uint64_t>(config.debug.seed),
          .context = config.training.seq_len,
          .tokenizer = data.tokenizer,
          .tokenizer_path = data.tokenizer_path,
          .text_files = data.text_files,
          .document_separator = data.document_separator,
          .document_tokens = data.document_tokens,
          .disjoint_windows = data.windows == "disjoint",
          .normalize = data.normalize,
          .train_images = data.train_images,
          .train_labels = data.train_labels,
          .test_images = data.test_images,
          .test_labels = data.test_labels,
          .train_files = data.train_files,
          .test_files = data.test_files,
          .memory_budget = config::memory_budget(data),
          .readers = static_cast<int>(data.readers),
          .image_size = data.crop_size > 0 ? data.crop_size : data.image_size,
          .resize_size = data.resize_size,
          .table_train = data.train_table,
          .table_test = data.test_table,
          .table_format = {.delimiter = data.delimiter == "tab" ? '\t' : data.delimiter.front(),
                           .names = data.column_names,
                           .ignored = data.ignore_columns},
          .table_rules = table_rules(config),
          .augmentation = {data.random_crop_padding, data.random_flip, data.random_resized_crop,
                           data.random_resized_crop_min_scale, data.random_resized_crop_max_scale,
                           data.random_resized_crop_min_ratio, data.random_resized_crop_max_ratio},
          .mixture = data.mixture,
          .shuffle = data.shuffle,
          .binary_targets = config.training.loss == "binary" && config.training.objective != "gan"};
}

Dataset open_dataset(const config::Config& config, const Preprocessing* preprocessing) {
  return open_dataset(dataset_options(config), preprocessing);
}

DataInfo probe(const config::Config& config) { return probe(dataset_options(config)); }

Dataset open_dataset(const DatasetOptions& options, const Preprocessing* preprocessing) {
  Dataset dataset = reading(options.path, [&] { return kind_of(options).open(options, preprocessing); });
  if (options.binary_targets) read_as_binary(&dataset);
  return dataset;
}

DataInfo probe(const DatasetOptions& options) {
  DataInfo info = reading(options.path, [&] { return kind_of(options).probe(options); });
  if (!options.binary_targets) return info;
  return {binary_fields(std::move(info.fields), info.classes), 1, info.train_samples};
}

const Source* find_split(const Dataset& dataset, Split split) {
  switch (split) {
    case Split::kTrain:
      return dataset.train.get();
    case Split::kValidation:
      return dataset.validation.get();
    case Split::kTest:
      return dataset.test.get();
  }
  return nullptr;
}

}  // namespace furrow::data
