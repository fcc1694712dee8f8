#include "furrow/preprocess/hf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/byte_pairs.h"
#include "furrow/preprocess/nfc.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

constexpr uint32_t kMostTokens = uint32_t{1} << 24;
constexpr const char* kNfc = "nfc";

[[noreturn]] void damaged(const std::string& message) {
  throw Error(ErrorCode::kDataLoss, message + ": take tokenizer.json as it was published");
}

// Added tokens in a text: at each place the longest, from left to right.
class Finder {
 public:
  void add(const AddedToken& token) {
    std::vector<const AddedToken*>& same = by_first_byte_[first_byte(token.content)];
    same.push_back(&token);
    std::ranges::sort(
        same, [](const AddedToken* a, const AddedToken* b) { return a->content.size() > b->content.size(); });
  }

  // Calls between(text) for what lies between tokens and found(token) for each, in order.
  template <class Between, class Found>
  void split(std::string_view text, const Between& between, const Found& found) const {
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const AddedToken* token = find(text, at);
      if (token == nullptr) {
        ++at;
        continue;
      }
      if (at > begin) between(text.substr(begin, at - begin));
      found(*token);
      at += token->content.size();
      begin = at;
    }
    if (begin < text.size()) between(text.substr(begin));
  }

 private:
  static size_t first_byte(std::string_view text) { return static_cast<unsigned char>(text[0]); }
  const AddedToken* find(std::string_view text, size_t at) const {
    for (const AddedToken* token : by_first_byte_[static_cast<unsigned char>(text[at])]) {
      if (text.substr(at).starts_with(token->content)) return token;
    }
    return nullptr;
  }
  std::array<std::vector<const AddedToken*>, 256> by_first_byte_;
};

// May a text be cut within such a token, where may_cut_pieces() would?
bool spans_a_cut(std::string_view content) {
  const auto is_letter = [](unsigned char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; };
  for (size_t at = 1; at < content.size(); ++at) {
    const char before = content[at - 1];
    if (before == '\n' || (content[at] == ' ' && is_letter(static_cast<unsigned char>(before)))) return true;
  }
  return false;
}

std::array<uint32_t, 256> byte_ids(const HfTokenizerSpec& spec) {
  std::array<uint32_t, 256> ids{};
  for (uint32_t b = 0; b < 256; ++b) {
    const auto found = spec.vocabulary.find(printable_bytes(std::string(1, static_cast<char>(b))));
    ids[b] = found == spec.vocabulary.end() ? kNoToken : found->second;
    const bool occurs = b < 0xF5 && b != 0xC0 && b != 0xC1;  // in UTF-8
    if (ids[b] == kNoToken && occurs) damaged(fmt::format("the vocabulary has no token for the byte {}", b));
  }
  return ids;
}

MergeTable merge_table(const HfTokenizerSpec& spec) {
  MergeTable table(spec.merges.size());
  const auto id_of = [&spec](const std::string& token, size_t rank) {
    const auto found = spec.vocabulary.find(token);
    if (found == spec.vocabulary.end())
      damaged(fmt::format("merge {} needs {}, which is not in the vocabulary", rank, json_quote(token)));
    return found->second;
  };
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const MergeTable::Merge merge{static_cast<uint32_t>(rank), id_of(left + right, rank)};
    if (!table.insert(id_of(left, rank), id_of(right, rank), merge))
      damaged(fmt::format("merge {} of {} and {} is there twice", rank, json_quote(left), json_quote(right)));
  }
  return table;
}

// What each id stands for: the bytes of a byte-level token, the letters of any other.  An id that is nobody's
// stays empty.
std::vector<std::string> texts_of(const HfTokenizerSpec& spec) {
  std::vector<std::string> texts;
  const size_t tokens = spec.vocabulary.size() + spec.added.size(), most = 4 * tokens + 1024;
  const auto place = [&texts, tokens, most](uint32_t id, const std::string& token) -> std::string& {
    if (id >= most)
      damaged(fmt::format("token {} has the number {}, but there are {}", json_quote(token), id, tokens));
    if (id >= texts.size()) texts.resize(id + 1);
    return texts[id];
  };
  for (const auto& [token, id] : spec.vocabulary) {
    if (token.empty()) damaged(fmt::format("token {} is empty", id));
    std::string& text = place(id, token);
    if (!text.empty())
      damaged(fmt::format("the number {} is that of {} and of another", id, json_quote(token)));
    if (!bytes_of_printable(token, &text)) text = token;
  }
  for (const AddedToken& added : spec.added) {
    const auto own = spec.vocabulary.find(added.content);
    if (own != spec.vocabulary.end() && own->second != added.id)
      damaged(fmt::format("the added token {} has two numbers", json_quote(added.content)));
    std::string& text = place(added.id, added.content);
    if (own == spec.vocabulary.end() && !text.empty())
      damaged(fmt::format("the added token {} has the number {} of another", json_quote(added.content),
                          added.id));
    text = added.content;
  }
  return texts;
}

std::unordered_map<std::string, uint32_t> whole_pieces(const HfTokenizerSpec& spec) {
  std::unordered_map<std::string, uint32_t> whole;
  if (!spec.ignore_merges) return whole;
  std::string bytes;
  for (const auto& [token, id] : spec.vocabulary) {
    if (bytes_of_printable(token, &bytes)) whole.emplace(bytes, id);
  }
  return whole;
}

const PiecePattern& pattern_of(const HfTokenizerSpec& spec) {
  const PiecePattern* pattern = find_pattern(spec.pattern);
  if (pattern != nullptr) return *pattern;
  throw Error(ErrorCode::kUnimplemented,
              unknown_name_message("pattern of a tokenizer", spec.pattern, pattern_names()));
}

}  // namespace

struct HfTokenizer::Tables {
  HfTokenizerSpec spec;
  std::vector<std::string> texts;
  BytePairs pairs;
  Finder first, then;  // added tokens
  bool cuttable = true;

  explicit Tables(HfTokenizerSpec given)
      : spec(std::move(given)),
        texts(texts_of(spec)),
        pairs(pattern_of(spec), byte_ids(spec), merge_table(spec), whole_pieces(spec)) {
    std::map<std::string_view, int> seen;
    for (const AddedToken& token : spec.added) {
      if (token.content.empty() || ++seen[token.content] > 1)
        damaged(fmt::format("the added token {} is empty or there twice", json_quote(token.content)));
      if (spec.nfc && token.normalized && to_nfc(token.content) != token.content)
        damaged(fmt::format("the added token {} is not in the form NFC, in which it is looked for",
                            json_quote(token.content)));
      (token.normalized ? then : first).add(token);
      cuttable = cuttable && !spans_a_cut(token.content);
    }
    for (const std::optional<uint32_t>& token : {spec.begin, spec.end}) {
      if (token && (*token >= texts.size() || texts[*token].empty()))
        damaged(fmt::format("the token {} that begins or ends a text is nobody's", *token));
    }
    if (spec.adds_begin && !spec.begin) damaged("texts begin with a token that is not named");
  }
};

HfTokenizer::HfTokenizer(HfTokenizerSpec spec) : tables_(std::make_unique<const Tables>(std::move(spec))) {}
HfTokenizer::~HfTokenizer() = default;

const HfTokenizerSpec& HfTokenizer::spec() const { return tables_->spec; }
int64_t HfTokenizer::vocabulary_size() const { return static_cast<int64_t>(tables_->texts.size()); }
std::optional<uint32_t> HfTokenizer::begin_token() const { return tables_->spec.begin; }
std::optional<uint32_t> HfTokenizer::end_token() const { return tables_->spec.end; }

void HfTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  require_utf8(text);
  const auto found = [&ids](const AddedToken& token) { ids.push_back(token.id); };
  const auto normalized = [&](std::string_view part) {
    tables_->then.split(part, [&](std::string_view piece) { tables_->pairs.encode(piece, ids); }, found);
  };
  const auto between = [&](std::string_view part) {
    tables_->spec.nfc && !surely_nfc(part) ? normalized(to_nfc(part)) : normalized(part);
  };
  tables_->first.split(text, between, found);
}

std::string HfTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  for (const uint32_t id : ids) {
    if (id >= tables_->texts.size() || tables_->texts[id].empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} is no token of the vocabulary of {}", id, tables_->texts.size()));
    }
    text += tables_->texts[id];
  }
  return text;
}

bool HfTokenizer::may_cut(std::string_view text, size_t at) const {
  return tables_->cuttable && may_cut_pieces(text, at);
}

// ----- the saved state

namespace {

std::string token_lines(const HfTokenizerSpec& spec) {
  std::vector<std::string_view> tokens;
  for (const auto& [token, id] : spec.vocabulary) {
    if (id >= tokens.size()) tokens.resize(id + 1);
    tokens[id] = token;
  }
  std::string lines;
  for (const std::string_view token : tokens) lines.append(to_line(token)).append("\n");
  return lines;
}

std::string merge_lines(const HfTokenizerSpec& spec) {
  std::string lines;
  for (const auto& [left, right] : spec.merges)
    lines += fmt::format("{} {}\n", spec.vocabulary.at(left), spec.vocabulary.at(right));
  return lines;
}

std::string added_lines(const HfTokenizerSpec& spec) {
  std::string lines;
  for (const AddedToken& token : spec.added)
    lines +=
        fmt::format("{} {:d} {:d} {}\n", token.id, token.normalized, token.special, to_line(token.content));
  return lines;
}

[[noreturn]] void bad_state(const std::string& key, std::string_view line) {
  throw Error(ErrorCode::kDataLoss,
              fmt::format("fitted preprocessing: '{}' has a line '{}': save the model again", key, line));
}

uint32_t parse_id(const std::string& key, std::string_view text) {
  int64_t value = 0;
  if (!parse_int(text, value) || value < 0 || value >= kMostTokens) bad_state(key, text);
  return static_cast<uint32_t>(value);
}

std::vector<std::string> lines_of(const State& state, const std::string& key) {
  const std::string& text = state_value(state, key);
  if (text.empty()) return {};
  if (!text.ends_with('\n')) bad_state(key, text.substr(text.rfind('\n') + 1));
  return split(std::string_view(text).substr(0, text.size() - 1), '\n');
}

bool state_flag(const State& state, const std::string& key) {
  const std::string& value = state_value(state, key);
  if (value != "true" && value != "false") bad_state(key, value);
  return value == "true";
}

void read_tokens(const State& state, HfTokenizerSpec* spec, std::vector<std::string>* tokens) {
  for (const std::string& line : lines_of(state, "tokens")) {
    tokens->push_back(from_line(line, "tokens"));
    if (!tokens->back().empty() &&
        !spec->vocabulary.emplace(tokens->back(), static_cast<uint32_t>(tokens->size() - 1)).second)
      bad_state("tokens", line);
  }
}

void read_merges(const State& state, const std::vector<std::string>& tokens, HfTokenizerSpec* spec) {
  for (const std::string& line : lines_of(state, "merges")) {
    const size_t space = line.find(' ');
    if (space == std::string::npos) bad_state("merges", line);
    const uint32_t left = parse_id("merges", std::string_view(line).substr(0, space)),
                   right = parse_id("merges", std::string_view(line).substr(space + 1));
    if (left >= tokens.size() || right >= tokens.size()) bad_state("merges", line);
    spec->merges.emplace_back(tokens[left], tokens[right]);
  }
}

void read_added(const State& state, HfTokenizerSpec* spec) {
  for (const std::string& line : lines_of(state, "added")) {
    const size_t space = line.find(' ');  // "12 0 1 <|end|>"
    if (space == std::string::npos || line.size() < space + 6 || line[space + 2] != ' ' ||
        line[space + 4] != ' ')
      bad_state("added", line);
    const auto flag = [&](size_t at) {
      if (line[at] != '0' && line[at] != '1') bad_state("added", line);
      return line[at] == '1';
    };
    spec->added.push_back({from_line(line.substr(space + 5), "added"),
                           parse_id("added", std::string_view(line).substr(0, space)), flag(space + 1),
                           flag(space + 3)});
  }
}

std::optional<uint32_t> optional_id(const State& state, const std::string& key) {
  const auto found = state.find(key);
  return found == state.end() ? std::nullopt : std::optional(parse_id(key, found->second));
}

}  // namespace

State HfTokenizer::state() const {
  const HfTokenizerSpec& spec = tables_->spec;
  State state = {{"kind", "hf"},
                 {"pattern", spec.pattern},
                 {"tokens", token_lines(spec)},
                 {"merges", merge_lines(spec)},
                 {"added", added_lines(spec)},
                 {"ignore_merges", spec.ignore_merges ? "true" : "false"},
                 {"adds_begin", spec.adds_begin ? "true" : "false"}};
  if (spec.nfc) state["normalizer"] = kNfc;
  if (spec.begin) state["begin"] = fmt::format("{}", *spec.begin);
  if (spec.end) state["end"] = fmt::format("{}", *spec.end);
  return state;
}

std::unique_ptr<Preprocessor> HfTokenizer::load(const State& state) {
  HfTokenizerSpec spec;
  spec.pattern = state_value(state, "pattern");
  if (find_pattern(spec.pattern) == nullptr) bad_state("pattern", spec.pattern);
  std::vector<std::string> tokens;
  read_tokens(state, &spec, &tokens);
  read_merges(state, tokens, &spec);
  read_added(state, &spec);
  spec.ignore_merges = state_flag(state, "ignore_merges");
  spec.adds_begin = state_flag(state, "adds_begin");
  const auto normalizer = state.find("normalizer");
  spec.nfc = normalizer != state.end();
  if (spec.nfc && normalizer->second != kNfc) bad_state("normalizer", normalizer->second);
  spec.begin = optional_id(state, "begin");
  spec.end = optional_id(state, "end");
  return std::make_unique<HfTokenizer>(std::move(spec));
}

}  // namespace furrow::preprocess
