// The "text" kind: one text, cut into training, validation and test from front to back.
#include "furrow/data/open_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/names.h"
#include "furrow/data/documents.h"
#include "furrow/data/files.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/split.h"
#include "furrow/data/text_reader.h"
#include "furrow/data/tokenizer_json.h"
#include "furrow/data/vocabulary_file.h"
#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;
using preprocess::ByteTokenizer;
using preprocess::CharTokenizer;
using preprocess::Tokenizer;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

using Files = std::span<const fs::path>;

// The alphabet is that of the whole text, as nanoGPT's: a character that only validation has can still be
// read.
std::unique_ptr<Tokenizer> fit_chars(const DatasetOptions& options, Files files) {
  const std::set<char32_t> alphabet = alphabet_of(files, options);
  return std::make_unique<CharTokenizer>(std::vector<char32_t>(alphabet.begin(), alphabet.end()));
}

std::unique_ptr<Tokenizer> fit_bytes(const DatasetOptions&, Files) {
  return std::make_unique<ByteTokenizer>();
}

// The file of a tokenizer that was fitted elsewhere: `tokenizer_path`, or `name` in that folder.
template <class Make>
std::unique_ptr<Tokenizer> from_file(const DatasetOptions& options, const char* name, const Make& make) {
  if (options.tokenizer_path.empty()) {
    invalid(fmt::format("[data] tokenizer_path is empty: tokenizer = {} needs its file {}", options.tokenizer,
                        name));
  }
  const bool folder = fs::is_directory(options.tokenizer_path);
  const fs::path wanted = folder ? options.tokenizer_path / name : options.tokenizer_path,
                 path = find_file(wanted);
  if (path.empty()) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("no file {}: set [data] tokenizer_path to the file of tokenizer = {}, or to a folder "
                    "that holds it as {}",
                    wanted.string(), options.tokenizer, name));
  }
  const Bytes file = read_contents(path);
  try {
    std::unique_ptr<Tokenizer> tokenizer = make(file.as_text(), path);
    log_info(fmt::format("tokenizer {}: {} tokens", path.string(), tokenizer->vocabulary_size()));
    return tokenizer;
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
}

std::unique_ptr<Tokenizer> load_gpt2(const DatasetOptions& options, Files) {
  return from_file(options, "vocab.bpe", [](std::string_view merges, const fs::path& path) {
    if (!merges.ends_with('\n')) {  // fewer merges are another tokenizer, which nothing else would tell
      throw Error(ErrorCode::kDataLoss,
                  "its last line has no end, so it may be cut off: take vocab.bpe or merges.txt as it was "
                  "published");
    }
    auto tokenizer = std::make_unique<preprocess::BpeTokenizer>(merges);
    check_vocabulary_beside(path, *tokenizer);
    return tokenizer;
  });
}

std::unique_ptr<Tokenizer> load_sentencepiece(const DatasetOptions& options, Files) {
  return from_file(options, "tokenizer.model", [](std::string_view model, const fs::path&) {
    return std::make_unique<preprocess::SentencePieceTokenizer>(std::string(model));
  });
}

std::unique_ptr<Tokenizer> load_hf(const DatasetOptions& options, Files) {
  return from_file(options, "tokenizer.json", [](std::string_view json, const fs::path& path) {
    return open_tokenizer_json(json, path);
  });
}

// The tokenizers of [data] tokenizer; their saved form is loaded through preprocess::load.
struct TokenizerKind {
  std::string_view name;
  std::unique_ptr<Tokenizer> (*make)(const DatasetOptions& options, Files files);
  bool from_file;
};
constexpr TokenizerKind kTokenizers[] = {{"byte", &fit_bytes, false},
                                         {"char", &fit_chars, false},
                                         {"gpt2", &load_gpt2, true},
                                         {"hf", &load_hf, true},
                                         {"sentencepiece", &load_sentencepiece, true}};

std::unique_ptr<Tokenizer> make_tokenizer(const DatasetOptions& options, Files files) {
  std::vector<std::string> known;
  for (const TokenizerKind& kind : kTokenizers) {
    if (kind.name == options.tokenizer) return kind.make(options, files);
    known.emplace_back(kind.name);
  }
  invalid(unknown_name_message("[data] tokenizer", options.tokenizer, known));
}

struct Text {
  std::string name;  // for messages
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<const TokenStore> tokens;
  std::vector<int64_t> ends;  // of documents; empty: the text is one stream
  std::string place;          // as Dataset::shared
};

Text read_text(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const std::vector<fs::path> files = text_files(options);
  Text text{files.size() == 1 ? files[0].string() : options.path.string(),
            preprocessing ? preprocess::load_as<Tokenizer>(*preprocessing) : make_tokenizer(options, files),
            nullptr,
            {},
            {}};
  TokenisedText read = tokenise(files, *text.tokenizer, options);
  text.tokens = std::move(read.tokens);
  text.ends = std::move(read.ends);
  text.place = std::move(read.place);
  return text;
}

}  // namespace

bool is_tokenizer_kind(std::string_view kind) {
  return std::ranges::any_of(kTokenizers, [kind](const TokenizerKind& row) { return row.name == kind; });
}

Preprocessing tokenizer_from_file(const DatasetOptions& options) {
  for (const TokenizerKind& kind : kTokenizers) {
    if (kind.name == options.tokenizer && kind.from_file) return kind.make(options, {})->state();
  }
  return {};
}

std::unique_ptr<Source> token_windows(const NamedTokens& text, const char* split, TextSource::Range range,
                                      const Windows& windows) {
  const int64_t tokens = range.end - range.begin;
  if (tokens <= windows.context) {
    invalid(
        fmt::format("{}: the {} split has {} tokens, but one sample needs seq_len + 1 = {}: lower [training] "
                    "seq_len or change the fractions",
                    text.name, split, tokens, windows.context + 1));
  }
  return std::make_unique<TextSource>(text.tokens, range, windows);
}

std::unique_ptr<Source> document_rows(const NamedTokens& text, const char* split, int64_t begin,
                                      std::vector<int64_t> ends, int64_t context) {
  int64_t longest = 0, start = begin;
  for (const int64_t end : ends) longest = std::max(longest, end - std::exchange(start, end));
  if (longest < 2) {
    invalid(
        fmt::format("{}: no document of the {} split has two tokens, so that there is nothing to predict: "
                    "choose another [data] document_separator, other fractions or a longer text",
                    text.name, split));
  }
  return std::make_unique<DocumentSource>(text.tokens, begin, std::move(ends), context);
}

int64_t checked_context(const DatasetOptions& options) {
  if (options.context >= 1) return options.context;
  invalid(fmt::format("[training] seq_len = {}: text needs at least 1", options.context));
}

Windows training_windows(const DatasetOptions& options) {
  const int64_t context = checked_context(options);
  return options.disjoint_windows ? disjoint_windows(context, options.seed) : every_window(context);
}

Preprocessing fit_texts(std::span<const DatasetOptions> texts) {
  const auto state_of = [](const Tokenizer& tokenizer) {
    Preprocessing state = tokenizer.state();
    state["classes"] = fmt::format("{}", tokenizer.vocabulary_size());
    return state;
  };
  if (texts[0].tokenizer != "char") return state_of(*make_tokenizer(texts[0], {}));
  std::set<char32_t> alphabet;
  for (const DatasetOptions& options : texts) alphabet.merge(alphabet_of(text_files(options), options));
  return state_of(CharTokenizer({alphabet.begin(), alphabet.end()}));
}

namespace {

// Front to back: training, validation, test.
struct Parts {
  int64_t train, validation, test;
};

// Of `size` tokens or documents.
Parts parts_of(const DatasetOptions& options, int64_t size, const char* what) {
  const int64_t test = fraction_count(options.test_fraction, size, "data.test_fraction", what);
  const int64_t validation =
      fraction_count(options.validation_fraction, size, "data.validation_fraction", what);
  if (size - validation - test < 1) {
    invalid(fmt::format("validation and test fractions {} + {} leave nothing to train on: use smaller ones",
                        options.validation_fraction, options.test_fraction));
  }
  return {size - validation - test, validation, test};
}

void split_into_documents(const Text& text, const DatasetOptions& options, Dataset& dataset) {
  const Parts parts = parts_of(options, static_cast<int64_t>(text.ends.size()), "documents");
  const NamedTokens named{text.name, text.tokens};
  const auto rows = [&](const char* split, int64_t first, int64_t count) -> std::unique_ptr<Source> {
    if (count == 0) return nullptr;
    const auto begin = text.ends.begin() + first;
    return document_rows(named, split, first == 0 ? 0 : *(begin - 1), {begin, begin + count},
                         options.context);
  };
  dataset.train = rows("training", 0, parts.train);
  dataset.validation = rows("validation", parts.train, parts.validation);
  dataset.test = rows("test", parts.train + parts.validation, parts.test);
}

}  // namespace

Dataset open_text(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const int64_t context = checked_context(options);
  const Text text = read_text(options, preprocessing);
  Dataset dataset;
  dataset.preprocessing = text.tokenizer->state();
  dataset.preprocessing["classes"] = fmt::format("{}", text.tokenizer->vocabulary_size());
  dataset.shared = text.place;
  if (!text.ends.empty()) {
    if (options.disjoint_windows) {
      invalid(
          "[data] windows = disjoint cuts a text that is one stream, and document_separator makes samples of "
          "whole documents: leave one of them out");
    }
    split_into_documents(text, options, dataset);
    return dataset;
  }
  const int64_t size = text.tokens->size();
  const auto [train_end, validation, test] = parts_of(options, size, "tokens");
  const NamedTokens named{text.name, text.tokens};
  const Windows side_by_side{.context = context, .stride = context};
  dataset.train = token_windows(named, "training", {0, train_end}, training_windows(options));
  const TextSource::Range validation_range{train_end, train_end + validation}, test_range{size - test, size};
  if (validation > 0) dataset.validation = token_windows(named, "validation", validation_range, side_by_side);
  if (test > 0) dataset.test = token_windows(named, "test", test_range, side_by_side);
  return dataset;
}

std::unique_ptr<Source> open_whole_text(const DatasetOptions& options, const Preprocessing& preprocessing) {
  const int64_t context = checked_context(options);
  const Text text = read_text(options, &preprocessing);
  const NamedTokens named{text.name, text.tokens};
  if (!text.ends.empty()) return document_rows(named, "whole", 0, text.ends, context);
  return token_windows(named, "whole", {0, text.tokens->size()}, {.context = context, .stride = context});
}

DataInfo probe_text(const DatasetOptions& options) {
  const Dataset dataset = open_text(options, nullptr);
  return {dataset.train->fields(), dataset.train->classes(), dataset.train->size()};
}

}  // namespace furrow::data
