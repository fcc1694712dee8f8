#include "furrow/data/vocabulary_file.h"

#include <fmt/format.h>

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/storage/json.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;
using preprocess::BpeTokenizer;

constexpr uint64_t kMostBytes = uint64_t{1} << 28;

[[noreturn]] void differs(const std::string& how) {
  throw Error(ErrorCode::kDataLoss,
              how +
                  ": the two files belong to different tokenizers, or one is damaged; take both as they were "
                  "published");
}

// "token "Ġthe" of line 7 of the merges"
std::string named(const BpeTokenizer& tokenizer, uint32_t id) {
  const std::string token = "token " + json_quote(tokenizer.printable(id));
  const size_t line = tokenizer.line_of(id);
  return line == 0 ? token : fmt::format("{} of line {} of the merges", token, line);
}

// The tokens by their numbers.  Error{data_loss}: a number twice, or one that no token has.
std::vector<const std::string*> by_number(const storage::Json::Object& entries) {
  std::vector<const std::string*> tokens(entries.size(), nullptr);
  for (const auto& [token, value] : entries) {
    const int64_t number = value.integer();
    if (number < 0 || number >= static_cast<int64_t>(entries.size())) {
      differs(fmt::format("of its {} tokens {} has the number {}, so that one below is nobody's",
                          entries.size(), json_quote(token), number));
    }
    const std::string*& place = tokens[static_cast<size_t>(number)];
    if (place != nullptr)
      differs(fmt::format("tokens {} and {} both have the number {}", json_quote(*place), json_quote(token),
                          number));
    place = &token;
  }
  return tokens;
}

// The numbers by token.
std::unordered_map<std::string_view, size_t> by_token(const std::vector<const std::string*>& tokens) {
  std::unordered_map<std::string_view, size_t> numbers;
  for (size_t i = 0; i < tokens.size(); ++i) numbers.emplace(*tokens[i], i);
  return numbers;
}

// Of the merges' token `id`.
size_t number_of(const std::unordered_map<std::string_view, size_t>& numbers, const BpeTokenizer& tokenizer,
                 uint32_t id) {
  const auto found = numbers.find(tokenizer.printable(id));
  if (found == numbers.end()) differs(fmt::format("{} is not in it", named(tokenizer, id)));
  return found->second;
}

[[noreturn]] void other_number(const BpeTokenizer& tokenizer, uint32_t id, size_t there, size_t wanted) {
  differs(fmt::format("{} is number {} there and {} by the merges", named(tokenizer, id), there, wanted));
}

}  // namespace

void check_vocabulary(std::string_view json, const BpeTokenizer& tokenizer) {
  const storage::Json file = storage::parse_json(json);
  const std::vector<const std::string*> tokens = by_number(file.object());
  const auto numbers = by_token(tokens);
  const auto known = static_cast<uint32_t>(tokenizer.vocabulary_size());
  for (uint32_t id = 0; id < known; ++id) {
    const size_t there = number_of(numbers, tokenizer, id);
    if (there == id) continue;
    if (id + 1 == known && there > id) {
      differs(
          fmt::format("it has {} tokens, but the merges make {} and may be cut off", tokens.size(), known));
    }
    other_number(tokenizer, id, there, id);
  }
}

std::optional<preprocess::HfTokenizerSpec> renumbered(std::string_view json, const BpeTokenizer& tokenizer) {
  const storage::Json file = storage::parse_json(json);
  const std::vector<const std::string*> tokens = by_number(file.object());
  const auto numbers = by_token(tokens);
  const size_t first = number_of(numbers, tokenizer, 0);
  if (first == 0) return std::nullopt;
  const auto made = static_cast<uint32_t>(tokenizer.vocabulary_size()) - 1;  // but for <|endoftext|>
  for (uint32_t id = 0; id < made; ++id) {
    const size_t there = number_of(numbers, tokenizer, id);
    if (there != first + id) other_number(tokenizer, id, there, first + id);
  }
  preprocess::HfTokenizerSpec spec;
  spec.pattern = "gpt2";
  for (uint32_t number = 0; number < tokens.size(); ++number) {
    spec.vocabulary.emplace(*tokens[number], number);
    if (number < first || number >= first + made)
      spec.added.push_back({.content = *tokens[number], .id = number, .normalized = false, .special = true});
  }
  const std::string lines = tokenizer.state().at("merges");
  for (const std::string& line : split(std::string_view(lines).substr(0, lines.size() - 1), '\n')) {
    const size_t space = line.find(' ');
    spec.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  if (const auto end = spec.vocabulary.find(tokenizer.printable(made)); end != spec.vocabulary.end())
    spec.begin = spec.end = end->second;
  return spec;
}

namespace {

// Of what lies beside merges whose tokens do not have GPT-2's numbers.
void check_cut_as_gpt2(const fs::path& folder) {
  const std::string config = (folder / "tokenizer_config.json").string();
  std::string why;
  if (path_exists((folder / "tokenizer.json").string())) why = "its tokenizer.json says how texts are cut";
  if (why.empty() && path_exists(config)) {
    const storage::Json parsed = storage::parse_json(read_file(config, kMostBytes));
    const storage::Json* const name = parsed.find("tokenizer_class");
    if (name != nullptr && name->is_string() && !name->string().starts_with("GPT2Tokenizer"))
      why = fmt::format("its tokenizer_config.json is of a {}", name->string());
  }
  if (why.empty()) return;
  throw Error(ErrorCode::kUnimplemented,
              fmt::format("tokens do not have GPT-2's numbers, and {}: take tokenizer.json", why));
}

}  // namespace

std::unique_ptr<preprocess::Tokenizer> open_merges(std::string_view merges, const fs::path& path) {
  auto tokenizer = std::make_unique<BpeTokenizer>(merges);
  const fs::path vocabulary = path.parent_path() / "vocab.json";
  if (path_exists(vocabulary.string())) {
    try {
      if (auto spec = renumbered(read_file(vocabulary.string(), kMostBytes), *tokenizer)) {
        check_cut_as_gpt2(path.parent_path());
        return std::make_unique<preprocess::HfTokenizer>(std::move(*spec));
      }
    } catch (const Error& error) {
      throw error.with_context(vocabulary.string());
    }
  }
  check_vocabulary_beside(path, *tokenizer);
  return tokenizer;
}

void check_vocabulary_beside(const fs::path& merges, const BpeTokenizer& tokenizer) {
  for (const char* name : {"encoder.json", "vocab.json"}) {
    const std::string path = (merges.parent_path() / name).string();
    if (!path_exists(path)) continue;
    try {
      check_vocabulary(read_file(path, kMostBytes), tokenizer);
    } catch (const Error& error) {
      throw error.with_context(path);
    }
  }
}

}  // namespace furrow::data
