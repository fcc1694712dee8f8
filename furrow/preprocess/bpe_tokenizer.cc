#include "furrow/preprocess/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/byte_pairs.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

constexpr uint32_t kBytes = 256;
constexpr size_t kMostMerges = size_t{1} << 24;
constexpr std::string_view kEnd = "<|endoftext|>";

[[noreturn]] void damaged(const std::string& message) {
  throw Error(ErrorCode::kDataLoss, message + ": take vocab.bpe or merges.txt as it was published");
}

}  // namespace

struct BpeTokenizer::Tables {
  std::string lines;                // of the merges, without a version
  std::vector<std::string> tokens;  // the bytes of each
  std::vector<uint32_t> numbers;    // of the lines of the merges
  std::unique_ptr<const BytePairs> pairs;

  Tables(std::string_view text, size_t count) {
    const ByteAlphabet& bytes = byte_alphabet();
    MergeTable merges(count);
    tokens.resize(kBytes);
    std::unordered_map<std::string, uint32_t> ids;  // by printable form
    for (uint32_t b = 0; b < kBytes; ++b) {
      tokens[bytes.order[b]] = std::string(1, static_cast<char>(b));
      ids[printable_bytes(tokens[bytes.order[b]])] = bytes.order[b];
    }
    size_t number = 0;
    for (size_t at = 0; at < text.size(); ++number) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string_view line = text.substr(at, end - at);
      at = end + 1;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty() || (number == 0 && line.starts_with("#version"))) continue;
      add_merge(line, number + 1, ids, &merges);
    }
    tokens.emplace_back(kEnd);
    pairs = std::make_unique<const BytePairs>(*find_pattern("gpt2"), bytes.order, std::move(merges));
  }

  void add_merge(std::string_view line, size_t number, std::unordered_map<std::string, uint32_t>& ids,
                 MergeTable* merges) {
    const size_t space = line.find(' ');
    const auto left = ids.find(std::string(line.substr(0, space)));
    const auto right = space == line.npos ? ids.end() : ids.find(std::string(line.substr(space + 1)));
    if (left == ids.end() || right == ids.end()) {
      damaged(fmt::format("line {} of the merges is no pair of tokens that there are by then", number));
    }
    const auto id = static_cast<uint32_t>(tokens.size());
    const bool fresh = ids.emplace(left->first + right->first, id).second &&
                       merges->insert(left->second, right->second, {id, id});
    if (!fresh) damaged(fmt::format("line {} of the merges makes a token that there is", number));
    tokens.push_back(tokens[left->second] + tokens[right->second]);
    lines.append(line).append("\n");
    numbers.push_back(static_cast<uint32_t>(number));
  }
};

BpeTokenizer::BpeTokenizer(std::string_view merges) {
  const auto lines = static_cast<size_t>(std::ranges::count(merges, '\n')) + 1;
  if (lines > kMostMerges) damaged(fmt::format("{} lines are too many merges", lines));
  if (!is_utf8(merges)) damaged("the list of merges is not UTF-8");
  tables_ = std::make_unique<const Tables>(merges, lines);
  if (tables_->lines.empty()) damaged("the list of merges is empty");
}

BpeTokenizer::~BpeTokenizer() = default;

std::unique_ptr<Preprocessor> BpeTokenizer::load(const State& state) {
  return std::make_unique<BpeTokenizer>(state_value(state, "merges"));
}

State BpeTokenizer::state() const { return {{"kind", "gpt2"}, {"merges", tables_->lines}}; }

int64_t BpeTokenizer::vocabulary_size() const { return static_cast<int64_t>(tables_->tokens.size()); }

void BpeTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  require_utf8(text);
  tables_->pairs->encode(text, ids);
}

size_t BpeTokenizer::line_of(uint32_t id) const {
  const bool merged = id >= kBytes && id - kBytes < tables_->numbers.size();
  return merged ? tables_->numbers[id - kBytes] : 0;
}

bool BpeTokenizer::may_cut(std::string_view text, size_t at) const { return may_cut_pieces(text, at); }

std::optional<uint32_t> BpeTokenizer::end_token() const {
  return static_cast<uint32_t>(vocabulary_size() - 1);
}

std::string BpeTokenizer::printable(uint32_t id) const {
  const std::string& token = tables_->tokens.at(id);
  return id + 1 == tables_->tokens.size() ? token : printable_bytes(token);  // <|endoftext|> is no bytes
}

std::string BpeTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  for (const uint32_t id : ids) {
    if (id >= tables_->tokens.size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("token {} is outside the vocabulary of {}", id, tables_->tokens.size()));
    }
    text += tables_->tokens[id];
  }
  return text;
}

}  // namespace furrow::preprocess
