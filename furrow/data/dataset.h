// A data set as a config describes it: opened once, split into train, validation and test.
//
// The validation split is carved from the training data: for images a keyed random `validation_fraction` of
// the training file (seeded by [debug] seed), for text the last part of the training text.  The test split
// comes from its own files, or for text from `test_fraction` at the very end; it may be absent.  Those of a
// mixture are those of its sets, one after another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/data/source.h"
#include "furrow/data/table_block.h"
#include "furrow/preprocess/image_augmenter.h"
#include "furrow/preprocess/preprocessor.h"

namespace furrow::config {
struct Config;
}

namespace furrow::data {

enum class Split { kTrain, kValidation, kTest };

// Values fitted on the training split, or the vocabulary: written into the artefact, key -> text.  "classes"
// is the number of classes, class_names.h says what they are called; the rest is the state of a preprocessor
// (preprocess/preprocessor.h).
using Preprocessing = preprocess::State;

// How a set is opened; it changes nothing that is read.
struct WhileOpening {
  int threads = 0;                            // text, tables: that read; 0: every core
  size_t part_bytes = size_t{1} << 19;        // text: what one of them takes at a time
  size_t table_part_bytes = size_t{1} << 21;  // CSV: the same
  // Text, tables: what is read lies in this folder, where the next opening of the same data goes on
  // (token_spool.h, table_store.h); empty: in memory.
  std::filesystem::path spool = {};
  // Told the bytes read and in all, by one thread at a time; each pass begins at 0.
  std::function<void(uint64_t done, uint64_t total)> progress = {};
  // Folders: told the files found so far, before any is read.
  std::function<void(uint64_t files)> listed = {};
  const CancelToken* cancel = nullptr;  // of all that: Error{cancelled} soon after it is set
  // Tables, text: what is read lies where other processes of this host can map it (Dataset::shared).
  bool share = false;
  // The same, with fitted values: what Dataset::shared says; nothing is read unless it cannot be mapped.
  std::string shared = {};
};

// What [training], [data] and [debug] say about the data; defaults as there, but for the fractions.
struct DatasetOptions {
  std::string kind;                           // a row of sources.cc: "cifar10", "idx", ...
  std::filesystem::path path = {};            // a folder; text: a file, plain or .gz, or a folder of them
  double validation_fraction = 0;             // of the training data, [0, 1)
  double test_fraction = 0;                   // of the whole: text from its end, rows of a table; [0, 1)
  uint64_t seed = 0;                          // which images are for validation, where windows are cut
  int64_t context = 0;                        // text: tokens of one sample, [training] seq_len
  std::string tokenizer = "char";             // text: "byte", "char", "gpt2", "sentencepiece"
  std::filesystem::path tokenizer_path = {};  // text: of the last two, the file or its folder
  std::vector<std::string> text_files = {};   // text: names under `path`; empty: see text_reader.h
  std::string document_separator = {};        // text: what ends a document; empty: the text is one stream
  std::string document_tokens = "none";       // text: around a document, "none", "end", "begin_end"
  bool disjoint_windows = false;              // text: an epoch has each token once, not every window
  bool normalize = true;                      // images: false leaves pixels at x / 255
  std::string train_images = "train-images-idx3-ubyte";
  std::string train_labels = "train-labels-idx1-ubyte";
  std::string test_images = "t10k-images-idx3-ubyte";  // empty: no test split
  std::string test_labels = "t10k-labels-idx1-ubyte";
  std::vector<std::string> train_files = {};  // cifar10: names under `path`
  std::vector<std::string> test_files = {};   // cifar10: none of them there: no test split
  // pack: streamed when it has more bytes than this, else mapped; 0: always mapped.
  uint64_t memory_budget = 0;
  int readers = 0;  // folder, pack: threads that read at once; 0: one, four to stream, every core to decode
  int64_t image_size = 0;                      // image files: pixels of a side; 0: 32, or as they were packed
  int64_t resize_size = 0;                     // of the shorter side before the crop; 0: as image_size
  bool keep_files = false;                     // folder: a pack of it holds the files, not pixels (records.h)
  std::string table_train = {};                // table: a file of the folder `path`
  std::string table_test = {};                 // table: beside it; empty: test_fraction, or no test split
  TableFormat table_format = {};               // table
  TableRules table_rules = {};                 // table
  preprocess::Augmentation augmentation = {};  // images: of the training split
  std::vector<std::string> mixture = {};       // mixture: "name: kind weight=W path=P", a set each
  bool shuffle = true;                         // mixture: whether a set is visited in a keyed order
  bool binary_targets = false;  // two classes as one number, 0 or 1: [training] loss = "binary"
  WhileOpening opening = {};
};

// What the splits of a mixture are made of; null where the set has no such split.
struct MixedSet {
  std::string name;
  double weight = 0;
  const Source* train = nullptr;
  const Source* validation = nullptr;
  const Source* test = nullptr;
};

struct Dataset {
  std::unique_ptr<Source> train;       // never null
  std::unique_ptr<Source> validation;  // null when validation_fraction is 0
  std::unique_ptr<Source>
      test;  // null when there is none; its files are opened by its first size() or read()
  Preprocessing preprocessing;
  std::vector<MixedSet> sets = {};  // of a mixture, as listed; they live as long as the splits
  std::string shared = {};          // where what was read can be mapped while this lives; empty: nowhere
};

// What a plan must know, without decompressing images.
struct DataInfo {
  std::vector<Field> fields;  // field 0 is the input, field 1 the target
  int64_t classes = 0;        // as Source::classes()
  int64_t train_samples = 0;
};

// A row of the table of data set kinds (sources.cc).
struct SourceKind {
  std::string_view name;     // [training] dataset
  std::string_view summary;  // one line
  Dataset (*open)(const DatasetOptions& options, const Preprocessing* preprocessing);
  DataInfo (*probe)(const DatasetOptions& options);
  bool (*recognises)(const std::filesystem::path& path);  // does it look like such a set?
};
std::span<const SourceKind> source_kinds();
// The kind that recognises `path`.  Error{invalid_argument} names the known ones, {not_found} when there is
// nothing.
std::string guess_kind(const std::filesystem::path& path);

DatasetOptions dataset_options(const config::Config& config);

// Errors name the file and the remedy; Error{data_loss} for damaged files, {not_found} for missing ones,
// {invalid_argument} for an unknown kind, an empty set, a label out of range, a context longer than the text,
// a fraction that leaves nothing. `preprocessing`, when not null, holds values fitted earlier (evaluating a
// saved run) and is used instead of fitting.
Dataset open_dataset(const DatasetOptions& options, const Preprocessing* preprocessing = nullptr);
Dataset open_dataset(const config::Config& config, const Preprocessing* preprocessing = nullptr);

// The same errors, but of images only header and labels are looked at.
DataInfo probe(const DatasetOptions& options);
DataInfo probe(const config::Config& config);

// All of a text, `options.path`, cut into windows side by side (or its documents), as the saved tokenizer
// reads it.  Errors as above.
std::unique_ptr<Source> open_whole_text(const DatasetOptions& options, const Preprocessing& preprocessing);

// The split, or null when there is none.
const Source* find_split(const Dataset& dataset, Split split);

}  // namespace furrow::data
