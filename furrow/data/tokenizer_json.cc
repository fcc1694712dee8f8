#include "furrow/data/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/byte_pairs.h"
#include "furrow/storage/json.h"

namespace furrow::data {
namespace {

using preprocess::AddedToken;
using preprocess::HfTokenizerSpec;
using storage::Json;

constexpr uint64_t kMostBytes = uint64_t{1} << 28;
constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr std::string_view kEnd = "<|endoftext|>";

[[noreturn]] void refuse(const std::string& what) {
  throw Error(
      ErrorCode::kUnimplemented,
      what +
          ": of tokenizer.json byte-level byte pairs are read, without a normalizer but NFC and by the "
          "patterns "
          "of GPT-2 (its digits one by one too), Llama 3 and Qwen; take tokenizer.model (SentencePiece) "
          "where the model has one");
}

// The value of a key that may be absent or null.
const Json* given(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value == nullptr || *value == Json() ? nullptr : value;
}

bool flag(const Json& object, std::string_view key, bool otherwise) {
  const Json* value = given(object, key);
  return value == nullptr ? otherwise : value->boolean();
}

std::string type_of(const Json& part) { return part.at("type").string(); }

// A part, or the parts of a sequence of them.
std::vector<const Json*> parts_of(const Json* part, std::string_view list) {
  if (part == nullptr) return {};
  if (type_of(*part) != "Sequence") return {part};
  std::vector<const Json*> parts;
  for (const Json& each : part->at(list).list()) parts.push_back(&each);
  return parts;
}

// Whether there is one, NFC.
bool read_normalizer(const Json& root) {
  const std::vector<const Json*> parts = parts_of(given(root, "normalizer"), "normalizers");
  for (const Json* part : parts) {
    if (type_of(*part) != "NFC") refuse(fmt::format("the normalizer {}", type_of(*part)));
  }
  return !parts.empty();
}

// ByteLevel: whether it cuts by GPT-2's pattern itself.
bool byte_level_cuts(const Json& part) {
  if (flag(part, "add_prefix_space", true)) refuse("the pre_tokenizer ByteLevel with add_prefix_space");
  return flag(part, "use_regex", true);
}

std::string split_pattern(const Json& part) {
  const Json* regex = part.at("pattern").find("Regex");
  if (regex == nullptr) refuse("the pre_tokenizer Split by a pattern that is no Regex");
  const auto* pattern = preprocess::find_pattern_by_regex(regex->string());
  if (pattern == nullptr) refuse(fmt::format("the pre_tokenizer Split by {}", json_quote(regex->string())));
  // What the pattern finds is all of the text: to keep what is between, or to drop it, is the same.
  const std::string& behavior = part.at("behavior").string();
  const bool invert = flag(part, "invert", false);
  if ((behavior != "Isolated" || invert) && (behavior != "Removed" || !invert))
    refuse(fmt::format("the pre_tokenizer Split with behavior {}, invert {}", behavior, invert));
  return std::string(pattern->name);
}

std::string read_pattern(const Json& root) {
  const std::vector<const Json*> parts = parts_of(given(root, "pre_tokenizer"), "pretokenizers");
  if (parts.empty()) refuse("no pre_tokenizer");
  std::string pattern;
  bool byte_level = false, digits = false;
  for (const Json* part : parts) {
    const std::string type = type_of(*part);
    std::string found;
    if (type == "Split" && !byte_level) {
      found = split_pattern(*part);
    } else if (type == "Digits" && pattern.empty() && !byte_level && !digits) {
      if (!flag(*part, "individual_digits", false))
        refuse("the pre_tokenizer Digits that keeps digits together");
      digits = true;
    } else if (type == "ByteLevel" && !byte_level) {
      byte_level = true;
      if (byte_level_cuts(*part)) found = digits ? "gpt2_digits" : "gpt2";
    } else {
      refuse(fmt::format("the pre_tokenizer {}", type));
    }
    if (!pattern.empty() && !found.empty()) refuse("a pre_tokenizer that cuts twice");
    if (!found.empty()) pattern = found;
  }
  if (!byte_level || pattern.empty()) refuse("a pre_tokenizer without ByteLevel or without a pattern");
  if (digits && pattern != "gpt2_digits") refuse("a pre_tokenizer that cuts twice");
  return pattern;
}

void check_decoder(const Json& root) {
  const Json* decoder = given(root, "decoder");
  if (decoder != nullptr && type_of(*decoder) != "ByteLevel")
    refuse(fmt::format("the decoder {}", type_of(*decoder)));
}

// Settings of the model that change what it gives.
void check_model(const Json& model) {
  if (const Json* type = given(model, "type"); type != nullptr && type->string() != "BPE")
    refuse(fmt::format("a model of type {}", type->string()));
  if (const Json* dropout = given(model, "dropout"); dropout != nullptr && dropout->number() != 0)
    refuse("dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* value = given(model, key);
    if (value != nullptr && !value->string().empty()) refuse(key);
  }
  if (flag(model, "byte_fallback", false)) refuse("byte_fallback");
}

uint32_t read_id(const Json& value) {
  const int64_t id = value.integer();
  if (id < 0 || id >= kMostTokens)
    throw Error(ErrorCode::kDataLoss, fmt::format("{} is no number of a token", id));
  return static_cast<uint32_t>(id);
}

void read_model(const Json& model, HfTokenizerSpec* spec) {
  check_model(model);
  spec->ignore_merges = flag(model, "ignore_merges", false);
  for (const auto& [token, id] : model.at("vocab").object()) spec->vocabulary.emplace(token, read_id(id));
  for (const Json& merge : model.at("merges").list()) {
    if (merge.is_list()) {  // since tokenizers 0.20
      const Json::List& pair = merge.list();
      if (pair.size() != 2) throw Error(ErrorCode::kDataLoss, "a merge is no pair");
      spec->merges.emplace_back(pair[0].string(), pair[1].string());
      continue;
    }
    const std::string& text = merge.string();
    const size_t space = text.find(' ');
    if (space == std::string::npos) throw Error(ErrorCode::kDataLoss, "a merge is no pair");
    spec->merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
}

void read_added(const Json& root, HfTokenizerSpec* spec) {
  const Json* list = given(root, "added_tokens");
  if (list == nullptr) return;
  for (const Json& each : list->list()) {
    const std::string& content = each.at("content").string();
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (flag(each, key, false)) refuse(fmt::format("{} of the added token {}", key, json_quote(content)));
    }
    const bool special = flag(each, "special", false);
    spec->added.push_back({content, read_id(each.at("id")), flag(each, "normalized", !special), special});
  }
}

std::optional<uint32_t> id_of(const HfTokenizerSpec& spec, std::string_view content) {
  const auto added = std::ranges::find(spec.added, content, &AddedToken::content);
  if (added != spec.added.end()) return added->id;
  const auto found = spec.vocabulary.find(std::string(content));
  return found == spec.vocabulary.end() ? std::nullopt : std::optional(found->second);
}

// "single" of a template: the text, or a token and the text.
void read_template(const Json& part, HfTokenizerSpec* spec) {
  const Json::List& pieces = part.at("single").list();
  const bool begins = pieces.size() == 2 && pieces[0].find("SpecialToken") != nullptr;
  if (pieces.empty() || pieces.size() > (begins ? 2U : 1U) || pieces.back().find("Sequence") == nullptr)
    refuse("a post_processor that does more than to begin texts with a token");
  if (!begins) return;
  const std::string& token = pieces[0].at("SpecialToken").at("id").string();
  spec->begin = id_of(*spec, token);
  if (!spec->begin)
    throw Error(ErrorCode::kDataLoss, fmt::format("no token {} that begins texts", json_quote(token)));
  spec->adds_begin = true;
}

void read_post_processor(const Json& root, HfTokenizerSpec* spec) {
  for (const Json* part : parts_of(given(root, "post_processor"), "processors")) {
    const std::string type = type_of(*part);
    if (type == "TemplateProcessing" && !spec->adds_begin)
      read_template(*part, spec);
    else if (type != "ByteLevel")
      refuse(fmt::format("the post_processor {}", type));
  }
}

// A token as transformers names it: its content, or an object that has it.
std::optional<uint32_t> read_named(const HfTokenizerSpec& spec, const Json& config, std::string_view key) {
  const Json* value = given(config, key);
  if (value == nullptr) return {};
  const std::string& content = value->is_string() ? value->string() : value->at("content").string();
  const std::optional<uint32_t> id = id_of(spec, content);
  if (!id) {
    throw Error(ErrorCode::kDataLoss, fmt::format("{} of tokenizer_config.json is {}, which is no token", key,
                                                  json_quote(content)));
  }
  return id;
}

void read_config(std::string_view text, HfTokenizerSpec* spec) {
  if (text.empty()) {
    spec->end = id_of(*spec, kEnd);
    return;
  }
  const Json config = storage::parse_json(text);
  if (!spec->begin) spec->begin = read_named(*spec, config, "bos_token");
  spec->end = read_named(*spec, config, "eos_token");
}

}  // namespace

HfTokenizerSpec parse_tokenizer_json(std::string_view json, std::string_view config) {
  const Json root = storage::parse_json(json);
  HfTokenizerSpec spec;
  const Json& model = root.at("model");
  check_model(model);  // the kind of it first
  spec.nfc = read_normalizer(root);
  spec.pattern = read_pattern(root);
  check_decoder(root);
  read_model(model, &spec);
  read_added(root, &spec);
  read_post_processor(root, &spec);
  read_config(config, &spec);
  return spec;
}

std::unique_ptr<preprocess::HfTokenizer> open_tokenizer_json(std::string_view json,
                                                             const std::filesystem::path& path) {
  const std::string config = (path.parent_path() / "tokenizer_config.json").string();
  return std::make_unique<preprocess::HfTokenizer>(
      parse_tokenizer_json(json, path_exists(config) ? read_file(config, kMostBytes) : std::string()));
}

// ----- writing

namespace {

void write_added(const HfTokenizerSpec& spec, JsonWriter* json) {
  json->key("added_tokens").begin_array();
  for (const AddedToken& token : spec.added) {
    json->begin_object().field("id", static_cast<int64_t>(token.id)).field("content", token.content);
    for (const char* key : {"single_word", "lstrip", "rstrip"}) json->field(key, false);
    json->field("normalized", token.normalized).field("special", token.special).end_object();
  }
  json->end_array();
}

void write_byte_level(std::string_view key, bool use_regex, JsonWriter* json) {
  if (!key.empty()) json->key(key);
  json->begin_object()
      .field("type", "ByteLevel")
      .field("add_prefix_space", false)
      .field("trim_offsets", true);
  json->field("use_regex", use_regex).end_object();
}

void write_pre_tokenizer(const HfTokenizerSpec& spec, JsonWriter* json) {
  if (spec.pattern == "gpt2") return write_byte_level("pre_tokenizer", true, json);
  json->key("pre_tokenizer").begin_object().field("type", "Sequence").key("pretokenizers").begin_array();
  if (spec.pattern == "gpt2_digits") {
    json->begin_object().field("type", "Digits").field("individual_digits", true).end_object();
    write_byte_level("", true, json);
    json->end_array().end_object();
    return;
  }
  json->begin_object().field("type", "Split").key("pattern").begin_object();
  json->field("Regex", preprocess::find_pattern(spec.pattern)->regex).end_object();
  json->field("behavior", "Isolated").field("invert", false).end_object();
  write_byte_level("", false, json);
  json->end_array().end_object();
}

// The letters of a token that begins or ends texts.
std::string content_of(const HfTokenizerSpec& spec, uint32_t id) {
  const auto added = std::ranges::find(spec.added, id, &AddedToken::id);
  if (added != spec.added.end()) return added->content;
  const auto found = std::ranges::find(spec.vocabulary, id, [](const auto& entry) { return entry.second; });
  return found == spec.vocabulary.end() ? std::string() : found->first;
}

void write_sequence_of(char text, int64_t type, JsonWriter* json) {
  json->begin_object()
      .key("Sequence")
      .begin_object()
      .field("id", std::string(1, text))
      .field("type_id", type);
  json->end_object().end_object();
}

void write_post_processor(const HfTokenizerSpec& spec, JsonWriter* json) {
  if (!spec.adds_begin) return write_byte_level("post_processor", true, json);
  const std::string begin = content_of(spec, *spec.begin);
  const auto begin_token = [&](int64_t type) {
    json->begin_object().key("SpecialToken").begin_object().field("id", begin).field("type_id", type);
    json->end_object().end_object();
  };
  json->key("post_processor").begin_object().field("type", "TemplateProcessing");
  json->key("single").begin_array();
  begin_token(0);
  write_sequence_of('A', 0, json);
  json->end_array().key("pair").begin_array();
  begin_token(0);
  write_sequence_of('A', 0, json);
  begin_token(1);
  write_sequence_of('B', 1, json);
  json->end_array().key("special_tokens").begin_object().key(begin).begin_object().field("id", begin);
  json->key("ids").begin_array().value(static_cast<int64_t>(*spec.begin)).end_array();
  json->key("tokens").begin_array().value(begin).end_array();
  json->end_object().end_object().end_object();
}

void write_model(const HfTokenizerSpec& spec, JsonWriter* json) {
  std::vector<std::pair<uint32_t, std::string_view>> tokens;
  for (const auto& [token, id] : spec.vocabulary) tokens.emplace_back(id, token);
  std::ranges::sort(tokens);
  json->key("model").begin_object().field("type", "BPE");
  for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"})
    json->key(key).null();
  json->field("fuse_unk", false).field("byte_fallback", false).field("ignore_merges", spec.ignore_merges);
  json->key("vocab").begin_object();
  for (const auto& [id, token] : tokens) json->field(token, static_cast<int64_t>(id));
  json->end_object().key("merges").begin_array();
  for (const auto& [left, right] : spec.merges) {
    json->begin_array().value(left).value(right).end_array();
  }
  json->end_array().end_object();
}

}  // namespace

std::string write_tokenizer_json(const HfTokenizerSpec& spec) {
  JsonWriter json;
  json.begin_object().field("version", "1.0");
  json.key("truncation").null().key("padding").null();
  write_added(spec, &json);
  if (spec.nfc)
    json.key("normalizer").begin_object().field("type", "NFC").end_object();
  else
    json.key("normalizer").null();
  write_pre_tokenizer(spec, &json);
  write_post_processor(spec, &json);
  write_byte_level("decoder", true, &json);
  write_model(spec, &json);
  return json.end_object().text() + "\n";
}

std::string write_tokenizer_config(const HfTokenizerSpec& spec) {
  JsonWriter json(2);
  json.begin_object().field("tokenizer_class", "PreTrainedTokenizerFast");
  if (spec.begin) json.field("bos_token", content_of(spec, *spec.begin));
  if (spec.end) json.field("eos_token", content_of(spec, *spec.end));
  return json.field("clean_up_tokenization_spaces", false).end_object().text() + "\n";
}

}  // namespace furrow::data
