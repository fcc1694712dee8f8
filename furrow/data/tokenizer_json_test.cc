// tokenizer.json beside what Hugging Face's `tokenizers` 0.23.3 gives for the same files and texts.
#include "furrow/data/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/preprocess/nfc.h"
#include "furrow/preprocess/utf8.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::data {
namespace {

using preprocess::HfTokenizer;
using ::testing::HasSubstr;

constexpr const char* kCorpus = "furrow/data/tokenizer_json_fuzz_corpus";

std::string corpus_file(const std::string& name) {
  return read_file((furrow::testing::source_root() / kCorpus / name).string(), 1 << 20);
}

HfTokenizer tokenizer_of(const std::string& json) { return HfTokenizer(parse_tokenizer_json(json)); }

std::vector<uint32_t> encode(const HfTokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

// Contractions in both cases and with a long s, digits of three scripts, marks, joined emoji, every kind of
// space and line end, added tokens one of which begins another, and what they must not be taken for.
constexpr std::string_view kOdd =
    "I'll DON'T he'S we'Ve \xe2\x80\x99s '\xc5\xbf x'\xc5\xbf  12345678 3.14 \xd9\xa1\xd9\xa2\xd9"
    "\xa3\xd9\xa4 \xc2\xbd\xe2\x85\xa7 \xe0\xa4\xb9\xe0\xa4\xbf\xe0\xa4\xa8\xe0\xa5\x8d\xe0\xa4"
    "\xa6\xe0\xa5\x80 a\xcc\x81"
    "e\xcc\x81 \xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80"
    "\x8d\xf0\x9f\x91\xa7 \xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c \xe1\xa0"
    "\x8e\xe2\x80\x8b\xc2\x85\xc2\xa0\xe2\x80\xa8\xe3\x80\x80 \t\r\n\r\n  \n x\r\ny\n\n\n  z  "
    " ...!?\n<|end|>x<|end|> <|begin|>tool call <tool>tool callx <|endx \xef\xbb\xbfword caf\xc3"
    "\xa9 cafe\xcc\x81 \xef\xac\x81 \xf0\x9d\x90\x80\xf0\x9d\x90\x81 \xc4\xb0\xc4\xb1 $100,000"
    ".00 (foo)bar_baz__ `code`  \xf4\x8f\xbf\xbd end  ";

struct Case {
  const char* name;
  std::vector<uint32_t> odd, ignored;
};

// Merges were learnt across all of the text, so that every cut of a pattern shows.
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"gpt2",
       {40,  6,   75,  75,  220, 35,  46,  45,  6,   51,  220, 71,  68,  6,   50,  220, 86,  68,  6,
        53,  68,  220, 259, 247, 82,  220, 6,   129, 123, 336, 6,   129, 123, 220, 220, 16,  17,  18,
        19,  20,  21,  22,  23,  220, 18,  13,  16,  19,  220, 149, 94,  149, 95,  149, 96,  149, 97,
        220, 126, 121, 158, 227, 100, 220, 269, 117, 269, 123, 269, 101, 335, 235, 269, 99,  335, 222,
        220, 64,  401, 68,  401, 220, 402, 102, 316, 100, 220, 394, 391, 388, 373, 234, 374, 377, 233,
        370, 371, 259, 101, 366, 364, 198, 336, 201, 198, 88,  198, 198, 198, 220, 220, 89,  256, 351,
        13,  0,   30,  198, 408, 407, 220, 406, 409, 220, 410, 409, 87,  220, 27,  91,  263, 87,  220,
        341, 334, 67,  268, 127, 102, 268, 68,  401, 220, 171, 105, 223, 220, 324, 223, 220, 313, 109,
        220, 3,   16,  257, 11,  257, 15,  13,  257, 220, 7,   69,  299, 8,   260, 81,  62,  260, 89,
        62,  62,  220, 63,  66,  288, 63,  220, 220, 280, 123, 121, 220, 263, 256},
       {220, 72, 70, 77, 333, 68, 67, 220, 72, 70, 77, 333, 68, 67, 336, 72, 70, 77, 333, 68, 67}},
      {"llama3",
       {40,  6,   75,  75,  220, 35,  46,  45,  6,   51,  220, 71,  68,  6,   50,  220, 86,  68,  6,
        53,  68,  220, 259, 247, 82,  220, 6,   129, 123, 336, 404, 220, 220, 16,  17,  18,  19,  20,
        21,  22,  23,  220, 18,  13,  16,  19,  220, 149, 94,  149, 95,  149, 96,  149, 97,  220, 126,
        121, 158, 227, 100, 220, 269, 117, 269, 123, 269, 101, 335, 235, 269, 99,  335, 222, 220, 64,
        401, 68,  401, 220, 402, 102, 316, 100, 220, 394, 391, 388, 373, 234, 374, 377, 233, 370, 371,
        259, 101, 366, 364, 198, 336, 276, 88,  198, 198, 198, 220, 220, 89,  256, 351, 13,  0,   30,
        198, 409, 408, 220, 407, 410, 220, 411, 410, 87,  220, 27,  91,  263, 87,  220, 341, 334, 67,
        268, 127, 102, 268, 68,  401, 220, 171, 105, 223, 220, 324, 223, 220, 313, 109, 220, 3,   16,
        257, 11,  257, 15,  13,  257, 220, 7,   69,  299, 298, 81,  292, 89,  62,  62,  220, 63,  66,
        288, 63,  220, 220, 280, 123, 121, 220, 263, 256},
       {406, 406, 336, 72, 70, 77, 333, 68, 67}},
      {"qwen",
       {40,  6,   75,  75,  220, 35,  46,  45,  6,   51,  220, 71,  68,  6,   50,  220, 86,  68,  6,
        53,  68,  220, 259, 247, 82,  220, 6,   129, 123, 336, 404, 220, 220, 16,  17,  18,  19,  20,
        21,  22,  23,  220, 18,  13,  16,  19,  220, 149, 94,  149, 95,  149, 96,  149, 97,  220, 126,
        121, 158, 227, 100, 220, 269, 117, 269, 123, 269, 101, 335, 235, 269, 99,  335, 222, 220, 64,
        401, 68,  401, 220, 402, 102, 316, 100, 220, 394, 391, 388, 373, 234, 374, 377, 233, 370, 371,
        259, 101, 366, 364, 198, 336, 276, 88,  198, 198, 198, 220, 220, 89,  256, 351, 13,  0,   30,
        198, 408, 407, 220, 406, 409, 220, 410, 409, 87,  220, 27,  91,  263, 87,  220, 341, 334, 67,
        268, 127, 102, 268, 68,  401, 220, 171, 105, 223, 220, 324, 223, 220, 313, 109, 220, 3,   16,
        15,  15,  11,  15,  15,  15,  13,  15,  15,  220, 7,   69,  299, 298, 81,  292, 89,  62,  62,
        220, 63,  66,  288, 63,  220, 220, 280, 123, 121, 220, 263, 256},
       {220, 72, 70, 77, 333, 68, 67, 220, 72, 70, 77, 333, 68, 67, 336, 72, 70, 77, 333, 68, 67}}};
  return all;
}

TEST(TokenizerJson, GivesTheIdsOfTokenizers) {
  for (const Case& each : cases()) {
    const HfTokenizer tokenizer = tokenizer_of(corpus_file(each.name));
    EXPECT_EQ(tokenizer.spec().pattern, each.name);
    EXPECT_EQ(encode(tokenizer, kOdd), each.odd) << each.name;
    // " ignored" is a token that no merge makes: with ignore_merges it is found all the same.
    EXPECT_EQ(encode(tokenizer, " ignored ignored xignored"), each.ignored) << each.name;
    EXPECT_EQ(tokenizer.decode(each.odd), kOdd) << each.name;
  }
  EXPECT_NE(cases()[0].odd, cases()[1].odd);
  EXPECT_NE(cases()[1].odd, cases()[2].odd) << "the patterns must differ for this text";
}

// A folder with tokenizer.json, text.txt and ids.txt, one number a line, of any tokenizer and size.
TEST(TokenizerJson, GivesTheIdsOfAGivenFolder) {
  const char* given = std::getenv("FURROW_TOKENIZER_ORACLE");
  if (given == nullptr) GTEST_SKIP() << "FURROW_TOKENIZER_ORACLE names no folder (tests/accuracy does)";
  const std::filesystem::path folder = given;
  const uint64_t most = uint64_t{1} << 30;
  const auto tokenizer =
      open_tokenizer_json(read_file((folder / "tokenizer.json").string(), most), folder / "tokenizer.json");
  const std::string text = read_file((folder / "text.txt").string(), most);
  std::string ids;
  for (const uint32_t id : encode(*tokenizer, text)) ids += std::to_string(id) + "\n";
  EXPECT_TRUE(ids == read_file((folder / "ids.txt").string(), most));
  const std::string decoded = tokenizer->decode(encode(*tokenizer, text));
  EXPECT_TRUE(decoded == text || tokenizer->spec().nfc);
  EXPECT_TRUE(tokenizer->decode(encode(*tokenizer, decoded)) == decoded);
}

TEST(TokenizerJson, IsWrittenAsItWasRead) {
  for (const Case& each : cases()) {
    const HfTokenizer tokenizer = tokenizer_of(corpus_file(each.name));
    const HfTokenizer again(parse_tokenizer_json(write_tokenizer_json(tokenizer.spec()),
                                                 write_tokenizer_config(tokenizer.spec())));
    EXPECT_EQ(again.state(), tokenizer.state()) << each.name;
    const auto loaded = preprocess::load_as<preprocess::Tokenizer>(tokenizer.state());
    EXPECT_EQ(loaded->state(), tokenizer.state()) << each.name;
    std::vector<uint32_t> ids;
    loaded->encode(kOdd, ids);
    EXPECT_EQ(ids, each.odd) << each.name;
  }
}

TEST(TokenizerJson, NamesTheTokensThatBeginAndEndTexts) {
  const std::string json = corpus_file("llama3");
  const auto spec = parse_tokenizer_json(json);
  EXPECT_TRUE(spec.adds_begin);
  EXPECT_EQ(spec.begin, 407U);
  EXPECT_FALSE(spec.end);
  const auto named = parse_tokenizer_json(
      json, R"({"bos_token": "<|end|>x", "eos_token": {"content": "<|end|>", "lstrip": false}})");
  EXPECT_EQ(named.begin, 407U) << "what texts begin with goes first";
  EXPECT_EQ(named.end, 408U);
  EXPECT_EQ(parse_tokenizer_json(corpus_file("gpt2"), R"({"bos_token": "<|end|>x"})").begin, 408U);
  EXPECT_THROW(parse_tokenizer_json(json, R"({"eos_token": "<|nobody|>"})"), Error);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string error_of(const std::string& json, ErrorCode code) {
  try {
    tokenizer_of(json);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

// Between the added tokens that are not normalized, as Qwen's.
TEST(TokenizerJson, TextsArePutIntoNormalFormC) {
  const std::string json = corpus_file("qwen");
  const HfTokenizer plain = tokenizer_of(json);
  const HfTokenizer tokenizer =
      tokenizer_of(replaced(json, R"("normalizer":null)", R"("normalizer":{"type":"NFC"})"));
  const std::string text = std::string(kOdd) + " e\xcc\x81t\xc3\xa9 A\xcc\x8a<|end|>\xcc\x81 \xe2\x84\xab";
  std::vector<uint32_t> want;  // the mark behind <|end|> has no letter
  const size_t cut = text.rfind("<|end|>") + 7;
  plain.encode(preprocess::to_nfc(text.substr(0, cut)), want);
  plain.encode(preprocess::to_nfc(text.substr(cut)), want);
  EXPECT_EQ(encode(tokenizer, text), want);
  EXPECT_NE(encode(plain, text), want) << "control";
  EXPECT_EQ(tokenizer.decode(want),
            preprocess::to_nfc(text.substr(0, cut)) + preprocess::to_nfc(text.substr(cut)));
  const HfTokenizer again(parse_tokenizer_json(write_tokenizer_json(tokenizer.spec())));
  EXPECT_EQ(again.state(), tokenizer.state());
  EXPECT_NE(plain.state(), tokenizer.state());
  EXPECT_EQ(preprocess::load(tokenizer.state())->state(), tokenizer.state());
}

// A Digits before ByteLevel: `tokenizers` cuts at each digit, of any script, and then by GPT-2's pattern.
TEST(TokenizerJson, CutsAtDigitsFirstWhereItIsAsked) {
  const std::string gpt2 = corpus_file("gpt2");
  const size_t begin = gpt2.find(R"({"type":"ByteLevel")"), end = gpt2.find('}', begin) + 1;
  const std::string level = gpt2.substr(begin, end - begin);
  const auto with = [&](const std::string& digits) {
    return gpt2.substr(0, begin) + R"({"type":"Sequence","pretokenizers":[)" + digits + "," + level + "]}" +
           gpt2.substr(end);
  };
  const HfTokenizer plain = tokenizer_of(gpt2),
                    tokenizer = tokenizer_of(with(R"({"type":"Digits","individual_digits":true})"));
  EXPECT_EQ(tokenizer.spec().pattern, "gpt2_digits");
  const std::set<char32_t> digits{0x661, 0x662, 0x663, 0x664, 0xBD, 0x2167};
  const std::string text = std::string(kOdd) + " a 1b  2\n3'4s 5'll6 \t7\n\n 89";
  std::vector<uint32_t> want;
  size_t from = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t before = at;
    const char32_t code = preprocess::decode_utf8(text, at);
    if (!(code >= '0' && code <= '9') && !digits.contains(code)) continue;
    plain.encode(std::string_view(text).substr(from, before - from), want);
    plain.encode(std::string_view(text).substr(before, at - before), want);
    from = at;
  }
  plain.encode(std::string_view(text).substr(from), want);
  EXPECT_EQ(encode(tokenizer, text), want);
  EXPECT_NE(encode(plain, text), want) << "control";
  const HfTokenizer again(parse_tokenizer_json(write_tokenizer_json(tokenizer.spec())));
  EXPECT_EQ(again.state(), tokenizer.state());
  for (const char* other : {R"({"type":"Digits","individual_digits":false})", R"({"type":"Digits"})"})
    EXPECT_THAT(error_of(with(other), ErrorCode::kUnimplemented), HasSubstr("keeps digits together"));
  const std::string twice = R"({"type":"Digits","individual_digits":true})";
  EXPECT_THAT(error_of(with(twice + "," + twice), ErrorCode::kUnimplemented),
              HasSubstr("the pre_tokenizer Digits"));
}

// Texts may be read in parts; where an added token spans what would be a cut, they may not.
TEST(TokenizerJson, PartsOfATextGiveTheIdsOfTheWhole) {
  for (const Case& each : cases()) {
    std::string json = corpus_file(each.name);
    EXPECT_FALSE(tokenizer_of(json).may_cut("a b", 1)) << "\"tool call\" has a space";
    for (size_t at = 0; (at = json.find("tool call", at)) != std::string::npos; ++at) json[at + 4] = '_';
    const HfTokenizer tokenizer = tokenizer_of(json);
    const std::string text =
        std::string(kOdd) + "some more words\nand (lines)\n1234 of them <|end|>x or so\n";
    const std::vector<uint32_t> whole = encode(tokenizer, text);
    int cuts = 0;
    for (size_t at = 1; at < text.size(); ++at) {
      if (!tokenizer.may_cut(text, at)) continue;
      ++cuts;
      std::vector<uint32_t> ids = encode(tokenizer, text.substr(0, at));
      tokenizer.encode(std::string_view(text).substr(at), ids);
      EXPECT_EQ(ids, whole) << each.name << " at " << at;
    }
    EXPECT_GE(cuts, 8);
  }
}

TEST(TokenizerJson, WhatIsNotReadIsRefusedByName) {
  const std::string json = corpus_file("llama3"), gpt2 = corpus_file("gpt2");
  const std::map<std::string, std::pair<std::string, std::string>> changes = {
      {"a model of type Unigram", {R"("type":"BPE")", R"("type":"Unigram")"}},
      {"the normalizer NFKC", {R"("normalizer":null)", R"("normalizer":{"type":"NFKC"})"}},
      {"the pre_tokenizer Split by", {R"(\\p{N}{1,3})", R"(\\p{N}{1,2})"}},
      {"behavior MergedWithNext", {R"("Isolated")", R"("MergedWithNext")"}},
      {"the pre_tokenizer Metaspace",
       {R"("type":"ByteLevel","add_prefix_space":false)", R"("type":"Metaspace")"}},
      {"a pre_tokenizer that cuts twice", {R"("use_regex":false)", R"("use_regex":true)"}},
      {"add_prefix_space", {R"("add_prefix_space":false)", R"("add_prefix_space":true)"}},
      {"the decoder Metaspace", {R"("decoder":{"type":"ByteLevel")", R"("decoder":{"type":"Metaspace")"}},
      {"byte_fallback", {R"("byte_fallback":false)", R"("byte_fallback":true)"}},
      {"dropout", {R"("dropout":null)", R"("dropout":0.1)"}},
      {"end_of_word_suffix", {R"("end_of_word_suffix":null)", R"("end_of_word_suffix":"</w>")"}},
      {"rstrip of the added token \"<|begin|>\"", {R"("rstrip":false)", R"("rstrip":true)"}},
      {"the post_processor BertProcessing",
       {R"({"type":"TemplateProcessing")", R"({"type":"BertProcessing")"}},
      {"does more than to begin texts",
       {R"({"Sequence":{"id":"A","type_id":0}}],"pair")",
        R"({"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"<|end|>","type_id":0}}],"pair")"}},
  };
  for (const auto& [message, change] : changes) {
    const std::string error =
        error_of(replaced(json, change.first, change.second), ErrorCode::kUnimplemented);
    EXPECT_THAT(error, HasSubstr(message));
    EXPECT_THAT(error, HasSubstr("byte-level byte pairs are read"));
  }
  // "Removed" of what the pattern does not find is the same as "Isolated".
  const std::string removed = replaced(json, R"("Isolated","invert":false)", R"("Removed","invert":true)");
  EXPECT_EQ(encode(tokenizer_of(removed), kOdd), cases()[1].odd);
  EXPECT_THAT(error_of(replaced(gpt2, R"("pre_tokenizer":{"type":"ByteLevel")",
                                R"("pre_tokenizer":{"type":"Whitespace")"),
                       ErrorCode::kUnimplemented),
              HasSubstr("the pre_tokenizer Whitespace"));
}

TEST(TokenizerJson, DamageIsNamed) {
  const std::string json = corpus_file("gpt2");
  EXPECT_THAT(error_of("{", ErrorCode::kDataLoss), HasSubstr("not JSON"));
  EXPECT_THAT(error_of(replaced(json, R"("~":93,)", ""), ErrorCode::kDataLoss),
              HasSubstr("no token for the byte 126"));
  EXPECT_THAT(error_of(replaced(json, R"("!":0,)", R"("!":1,)"), ErrorCode::kDataLoss),
              HasSubstr("is that of"));
  EXPECT_THAT(error_of(replaced(json, R"("!":0,)", R"("!":99999,)"), ErrorCode::kDataLoss),
              HasSubstr("has the number 99999"));
  EXPECT_THAT(
      error_of(replaced(json, R"("merges":[[)", R"("merges":[["nobody","x"],[)"), ErrorCode::kDataLoss),
      HasSubstr("merge 0 needs \"nobodyx\""));
  EXPECT_THAT(error_of(replaced(json, R"("id":407)", R"("id":5)"), ErrorCode::kDataLoss),
              HasSubstr("has the number 5 of another"));
}

}  // namespace
}  // namespace furrow::data
