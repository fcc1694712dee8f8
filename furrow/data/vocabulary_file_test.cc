// vocab.json beside the merges: what the two do not agree on is named.
#include "furrow/data/vocabulary_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/dataset.h"
#include "furrow/data/files.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

constexpr const char* kMerges = "#version: 0.2\nl o\n\nlo w\ne r\n";  // lines 2, 4 and 5 make 256 to 258

using Numbers = std::map<std::string, int64_t>;

Numbers numbers_of(const preprocess::BpeTokenizer& tokenizer) {
  Numbers numbers;
  for (int64_t id = 0; id < tokenizer.vocabulary_size(); ++id)
    numbers[tokenizer.printable(static_cast<uint32_t>(id))] = id;
  return numbers;
}

std::string json_of(const Numbers& numbers) {
  JsonWriter json;
  json.begin_object();
  for (const auto& [token, number] : numbers) json.field(token, number);
  return json.end_object().text();
}

TEST(VocabularyFile, SaysWhatTheMergesAndItDoNotAgreeOn) {
  const preprocess::BpeTokenizer tokenizer(kMerges);
  const Numbers whole = numbers_of(tokenizer);
  ASSERT_EQ(whole.size(), 260u);
  check_vocabulary(json_of(whole), tokenizer);
  const auto refused = [&](const auto& change, const std::string& part) {
    Numbers other = whole;
    change(other);
    const Error error = error_of([&] { check_vocabulary(json_of(other), tokenizer); });
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_THAT(error.what(), HasSubstr(part));
    EXPECT_THAT(error.what(), HasSubstr("take both as they were published"));
  };
  refused([](Numbers& other) { other.erase("low"), other["wol"] = 257; },
          "token \"low\" of line 4 of the merges is not in it");
  refused([](Numbers& other) { std::swap(other["low"], other["er"]); },
          "token \"low\" of line 4 of the merges is number 258 there and 257 by the merges");
  refused([](Numbers& other) { std::swap(other["a"], other["b"]); },
          "token \"a\" is number 65 there and 64 by the merges");
  refused([](Numbers& other) { other["low"] = 258; }, "tokens \"er\" and \"low\" both have the number 258");
  refused([](Numbers& other) { other["low"] = 260; },
          "of its 260 tokens \"low\" has the number 260, so that one below is nobody's");
  refused([](Numbers& other) { other["low"] = -1; }, "\"low\" has the number -1");
  refused([](Numbers& other) { other.erase("<|endoftext|>"); }, "token \"<|endoftext|>\" is not in it");
  refused([](Numbers& other) { other["<|endoftext|>"] = 260, other["erer"] = 259; },
          "it has 261 tokens, but the merges make 260 and may be cut off");
  Numbers more = whole;
  more["<|pad|>"] = 260;
  check_vocabulary(json_of(more), tokenizer);
  for (const char* text : {"", "{", "[]", "{\"a\": \"b\"}", "{\"a\": 0.5}", "{\"a\": 0, \"a\": 1}"}) {
    EXPECT_EQ(error_of([&] { check_vocabulary(text, tokenizer); }).code(), ErrorCode::kDataLoss) << text;
  }
}

TEST(VocabularyFile, IsLookedAtWhereItLiesBesideTheMerges) {
  const TempFolder folder;
  folder.write("vocab.bpe", kMerges);
  folder.write("t.txt", "low lower lowest");
  DatasetOptions options{.kind = "text", .path = folder / "t.txt", .context = 2, .tokenizer = "gpt2"};
  options.tokenizer_path = folder.path();
  open_dataset(options);
  Numbers numbers = numbers_of(preprocess::BpeTokenizer(kMerges));
  for (const char* name : {"encoder.json", "vocab.json"}) {
    folder.write(name, json_of(numbers));
    open_dataset(options);
  }
  std::swap(numbers["er"], numbers["lo"]);
  folder.write("vocab.json", json_of(numbers));
  EXPECT_THAT(error_of([&] { open_dataset(options); }).what(),
              HasSubstr("vocab.json: token \"lo\" of line 2"));
}

// As SmolLM's: special tokens first, all others so much behind GPT-2's numbers.
TEST(VocabularyFile, MayPutSpecialTokensFirst) {
  const TempFolder folder;
  const preprocess::BpeTokenizer plain(kMerges);
  Numbers numbers;
  for (const auto& [token, number] : numbers_of(plain)) numbers[token] = number + 2;
  numbers["<|endoftext|>"] = 0;
  numbers["<|im_start|>"] = 1;
  numbers["<|pad|>"] = 261;
  const auto path = folder.write("merges.txt", kMerges);
  folder.write("vocab.json", json_of(numbers));
  const auto tokenizer = open_merges(kMerges, path);
  EXPECT_EQ(tokenizer->vocabulary_size(), 262);
  EXPECT_EQ(tokenizer->end_token(), 0U);
  const std::string text = "low lower's  best\n12<|im_start|>low<|endoftext|>";
  std::vector<uint32_t> want, ids;
  const auto add = [&](std::string_view part) {
    std::vector<uint32_t> own;
    plain.encode(part, own);
    for (const uint32_t id : own) want.push_back(id + 2);
  };
  add("low lower's  best\n12");
  want.push_back(1);
  add("low");
  want.push_back(0);
  tokenizer->encode(text, ids);
  EXPECT_EQ(ids, want);
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(preprocess::load(tokenizer->state())->state(), tokenizer->state());
  // One number that is another is damage.
  for (const auto& [one, other] :
       {std::pair("low", "er"), {"a", "b"}, {"low", "<|im_start|>"}, {"!", "<|im_start|>"}}) {
    Numbers swapped = numbers;
    std::swap(swapped[one], swapped[other]);
    folder.write("vocab.json", json_of(swapped));
    const Error error = error_of([&] { open_merges(kMerges, path); });
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << one;
    EXPECT_THAT(error.what(), HasSubstr("vocab.json: token"));
  }
  // What may cut texts otherwise.
  folder.write("vocab.json", json_of(numbers));
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "GPT2TokenizerFast"})");
  EXPECT_EQ(open_merges(kMerges, path)->state(), tokenizer->state());
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_THAT(error_of([&] { open_merges(kMerges, path); }).what(),
              HasSubstr("is of a Qwen2Tokenizer: take"));
  folder.write("tokenizer.json", "{}");
  const Error error = error_of([&] { open_merges(kMerges, path); });
  EXPECT_EQ(error.code(), ErrorCode::kUnimplemented);
  EXPECT_THAT(error.what(), HasSubstr("its tokenizer.json says how texts are cut"));
  folder.write("vocab.json", json_of(numbers_of(plain)));
  EXPECT_EQ(open_merges(kMerges, path)->state(), plain.state()) << "GPT-2's own numbers";
}

// Each byte of a list of merges changed, each line left out: refused by itself or beside vocab.json, but for
// what makes the same merges.
TEST(VocabularyFile, SeesWhatTheMergesAloneDoNotShow) {
  const preprocess::BpeTokenizer whole("l o\ne r\nt h\nlo er\n");
  const std::string json = json_of(numbers_of(whole)), merges = whole.state().at("merges");
  int alone = 0, together = 0;
  for (size_t at = 0; at < merges.size(); ++at) {
    for (int bit = 0; bit < 7; ++bit) {
      std::string damaged = merges;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      try {
        const preprocess::BpeTokenizer other(damaged);
        ++alone;
        if (other.state() == whole.state()) continue;  // an empty line more, or "\r\n"
        EXPECT_EQ(error_of([&] { check_vocabulary(json, other); }).code(), ErrorCode::kDataLoss) << damaged;
        ++together;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      }
    }
  }
  EXPECT_GT(together, 5);
  EXPECT_GE(alone, together);
}

// As published.
TEST(RealVocabulary, Gpt2) {
  const std::filesystem::path folder = testing::real_data("gpt2-tokenizer");
  FURROW_NEED_DATA(folder, "gpt2-tokenizer");
  const Bytes merges = read_contents(folder / "vocab.bpe");
  check_vocabulary_beside(folder / "vocab.bpe", preprocess::BpeTokenizer(merges.as_text()));
}

}  // namespace
}  // namespace furrow::data
