#include "apps/furrow/foreign_tokenizers.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/data/tokenizer_json.h"
#include "furrow/data/vocabulary_file.h"
#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/llama2c_tokenizer.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"

namespace furrow::app {
namespace {

namespace fs = std::filesystem;
using preprocess::Tokenizer;

constexpr uint64_t kMostBytes = uint64_t{1} << 28;

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& file) {
  const std::string name = file.filename(), contents = read_file(file.string(), kMostBytes);
  try {
    if (name.ends_with(".model")) return std::make_unique<preprocess::SentencePieceTokenizer>(contents);
    if (name.ends_with(".json")) return data::open_tokenizer_json(contents, file);
    if (!name.ends_with(".txt") && !name.ends_with(".bpe"))
      return std::make_unique<preprocess::Llama2cTokenizer>(contents);
    return data::open_merges(contents, file);
  } catch (const Error& error) {
    throw error.with_context(file.string());
  }
}

struct Opened {
  fs::path file;
  std::unique_ptr<Tokenizer> tokenizer;  // null: there is none
};

// The first of a folder's files that is read; one of another form than those that are read is not in the way
// of the others.
Opened open_in_folder(const fs::path& folder) {
  std::optional<Error> refused;
  for (const char* name : {"tokenizer.json", "merges.txt", "vocab.bpe", "tokenizer.model"}) {
    if (!fs::exists(folder / name)) continue;
    try {
      return {folder / name, open_tokenizer(folder / name)};
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnimplemented) throw;
      if (!refused) refused = error;
    }
  }
  if (refused) throw *refused;
  return {};
}

Opened open_any(const fs::path& path) {
  return fs::is_directory(path) ? open_in_folder(path) : Opened{path, open_tokenizer(path)};
}

void write_vocabulary(const preprocess::BpeTokenizer& tokenizer, const std::string& path) {
  JsonWriter json(0);
  json.begin_object();
  for (uint32_t id = 0; id < static_cast<uint32_t>(tokenizer.vocabulary_size()); ++id)
    json.field(tokenizer.printable(id), static_cast<int64_t>(id));
  write_file_atomic(path, json.end_object().text() + "\n");
}

}  // namespace

preprocess::State read_tokenizer(const std::string& path, int64_t vocabulary) {
  const auto [file, tokenizer] = open_any(path);
  if (tokenizer == nullptr) return {};
  if (tokenizer->vocabulary_size() > vocabulary) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} has {} tokens, but the model knows {}: it belongs to another model",
                            file.string(), tokenizer->vocabulary_size(), vocabulary));
  }
  return tokenizer->state();
}

std::string unread_tokenizer(const std::string& folder) {
  for (const char* name : {"vocab.json", "spiece.model", "tokenizer_config.json"}) {
    if (fs::exists(fs::path(folder) / name)) return name;
  }
  return "";
}

bool write_tokenizer(const preprocess::State& preprocessing, const std::string& folder) {
  if (!preprocessing.contains("kind")) return false;
  const auto loaded = preprocess::load(preprocessing);
  if (const auto* merges = dynamic_cast<const preprocess::BpeTokenizer*>(loaded.get())) {
    write_file_atomic(folder + "/merges.txt",
                      "#version: 0.2\n" + preprocess::state_value(preprocessing, "merges"));
    write_vocabulary(*merges, folder + "/vocab.json");
    return true;
  }
  if (const auto* pairs = dynamic_cast<const preprocess::HfTokenizer*>(loaded.get())) {
    write_file_atomic(folder + "/tokenizer.json", data::write_tokenizer_json(pairs->spec()));
    write_file_atomic(folder + "/tokenizer_config.json", data::write_tokenizer_config(pairs->spec()));
    return true;
  }
  if (const auto* model = dynamic_cast<const preprocess::SentencePieceTokenizer*>(loaded.get())) {
    write_file_atomic(folder + "/tokenizer.model", model->model());
    return true;
  }
  return false;
}

}  // namespace furrow::app
