// The "text" kind: one text, cut into training, validation and test from front to back.
#include "furrow/data/open_text.h"

#include <fmt/format.h>

#include <set>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/data/files.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/split.h"
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

// The alphabet is that of the whole text, as nanoGPT's: a character that only validation has can still be
// read.
std::unique_ptr<Tokenizer> fit_chars(const DatasetOptions&, std::string_view text) {
  return std::make_unique<CharTokenizer>(CharTokenizer::fit(text));
}

std::unique_ptr<Tokenizer> fit_bytes(const DatasetOptions&, std::string_view) {
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
  const fs::path path = require_file(folder ? options.tokenizer_path / name : options.tokenizer_path);
  const Bytes file = read_contents(path);
  try {
    return make(file.as_text());
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
}

std::unique_ptr<Tokenizer> load_gpt2(const DatasetOptions& options, std::string_view) {
  return from_file(options, "vocab.bpe", [](std::string_view merges) {
    return std::make_unique<preprocess::BpeTokenizer>(merges);
  });
}

std::unique_ptr<Tokenizer> load_sentencepiece(const DatasetOptions& options, std::string_view) {
  return from_file(options, "tokenizer.model", [](std::string_view model) {
    return std::make_unique<preprocess::SentencePieceTokenizer>(std::string(model));
  });
}

// The tokenizers of [data] tokenizer; their saved form is loaded through preprocess::load.
struct TokenizerKind {
  std::string_view name;
  std::unique_ptr<Tokenizer> (*make)(const DatasetOptions& options, std::string_view text);
};
constexpr TokenizerKind kTokenizers[] = {
    {"byte", &fit_bytes}, {"char", &fit_chars}, {"gpt2", &load_gpt2}, {"sentencepiece", &load_sentencepiece}};

std::unique_ptr<Tokenizer> make_tokenizer(const DatasetOptions& options, std::string_view text) {
  std::vector<std::string> known;
  for (const TokenizerKind& kind : kTokenizers) {
    if (kind.name == options.tokenizer) return kind.make(options, text);
    known.emplace_back(kind.name);
  }
  invalid(unknown_name_message("[data] tokenizer", options.tokenizer, known));
}

struct Text {
  std::string file;
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<const Tokens> tokens;
};

Bytes checked_contents(const DatasetOptions& options) {
  const fs::path path = require_file(options.path);
  Bytes contents = read_contents(path);
  if (contents.as_text().empty())
    invalid(fmt::format("{} is empty: there is nothing to train on", path.string()));
  return contents;
}

Text read_text(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const fs::path path = require_file(options.path);
  const Bytes contents = checked_contents(options);
  const std::string_view text = contents.as_text();
  try {
    Text read{path.string(),
              preprocessing ? preprocess::load_as<Tokenizer>(*preprocessing) : make_tokenizer(options, text),
              nullptr};
    std::vector<uint32_t> ids;
    read.tokenizer->encode(text, ids);
    read.tokens = std::make_shared<const Tokens>(ids, read.tokenizer->vocabulary_size());
    return read;
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
}

}  // namespace

std::unique_ptr<Source> token_windows(const NamedTokens& text, const char* split, TextSource::Range range,
                                      int64_t context, int64_t stride) {
  const int64_t tokens = range.end - range.begin;
  if (tokens <= context) {
    invalid(
        fmt::format("{}: the {} split has {} tokens, but one sample needs seq_len + 1 = {}: lower [training] "
                    "seq_len or change the fractions",
                    text.name, split, tokens, context + 1));
  }
  return std::make_unique<TextSource>(text.tokens, range, context, stride);
}

int64_t checked_context(const DatasetOptions& options) {
  if (options.context >= 1) return options.context;
  invalid(fmt::format("[training] seq_len = {}: text needs at least 1", options.context));
}

Preprocessing fit_texts(std::span<const DatasetOptions> texts) {
  const auto state_of = [](const Tokenizer& tokenizer) {
    Preprocessing state = tokenizer.state();
    state["classes"] = fmt::format("{}", tokenizer.vocabulary_size());
    return state;
  };
  if (texts[0].tokenizer != "char") return state_of(*make_tokenizer(texts[0], ""));
  std::set<char32_t> alphabet;
  for (const DatasetOptions& options : texts) {
    const Bytes contents = checked_contents(options);
    const CharTokenizer fitted = CharTokenizer::fit(contents.as_text());
    alphabet.insert(fitted.alphabet().begin(), fitted.alphabet().end());
  }
  return state_of(CharTokenizer({alphabet.begin(), alphabet.end()}));
}

Dataset open_text(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const int64_t context = checked_context(options);
  const Text text = read_text(options, preprocessing);
  const int64_t size = text.tokens->size();
  const int64_t test = fraction_count(options.test_fraction, size, "data.test_fraction", "tokens");
  const int64_t validation =
      fraction_count(options.validation_fraction, size, "data.validation_fraction", "tokens");
  const int64_t train_end = size - validation - test;
  if (train_end < 1) {
    invalid(fmt::format("validation and test fractions {} + {} leave nothing to train on: use smaller ones",
                        options.validation_fraction, options.test_fraction));
  }
  Dataset dataset;
  dataset.preprocessing = text.tokenizer->state();
  dataset.preprocessing["classes"] = fmt::format("{}", text.tokenizer->vocabulary_size());
  const NamedTokens named{text.file, text.tokens};
  dataset.train = token_windows(named, "training", {0, train_end}, context, 1);
  const TextSource::Range validation_range{train_end, train_end + validation}, test_range{size - test, size};
  if (validation > 0)
    dataset.validation = token_windows(named, "validation", validation_range, context, context);
  if (test > 0) dataset.test = token_windows(named, "test", test_range, context, context);
  return dataset;
}

DataInfo probe_text(const DatasetOptions& options) {
  const Dataset dataset = open_text(options, nullptr);
  return {dataset.train->fields(), dataset.train->classes(), dataset.train->size()};
}

}  // namespace furrow::data
