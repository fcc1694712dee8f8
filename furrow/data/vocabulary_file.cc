#include "furrow/data/vocabulary_file.h"

#include <fmt/format.h>

#include <string>
#include <unordered_map>
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

}  // namespace

void check_vocabulary(std::string_view json, const BpeTokenizer& tokenizer) {
  const storage::Json file = storage::parse_json(json);
  const std::vector<const std::string*> tokens = by_number(file.object());
  std::unordered_map<std::string_view, size_t> numbers;
  for (size_t i = 0; i < tokens.size(); ++i) numbers.emplace(*tokens[i], i);
  const auto known = static_cast<uint32_t>(tokenizer.vocabulary_size());
  for (uint32_t id = 0; id < known; ++id) {
    const auto found = numbers.find(tokenizer.printable(id));
    if (found == numbers.end()) differs(fmt::format("{} is not in it", named(tokenizer, id)));
    if (found->second == id) continue;
    if (id + 1 == known && found->second > id) {
      differs(
          fmt::format("it has {} tokens, but the merges make {} and may be cut off", tokens.size(), known));
    }
    differs(
        fmt::format("{} is number {} there and {} by the merges", named(tokenizer, id), found->second, id));
  }
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
