// Texts as tokens: whatever the parts, the threads and the files, those of each file as a whole.
#include "furrow/data/text_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/config/config.h"
#include "furrow/data/test_files.h"
#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"

namespace furrow::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempFolder;

// Words, digits, runs of spaces and line ends, signs, accents, another script, a space of Unicode.
std::string made_up_text(int pieces, bool ascii = false) {
  const std::vector<std::string> all{"low",          " lower",   "'s", " ",    "  ",   "\n",  "\n\n",
                                     " 7",           "\t\n",     "!?", "the",  " The", "low", "\xc3\xa9",
                                     "\xe4\xbd\xa0", "\xc2\xa0", " a", "\r\n", "x",    " y"};
  std::string text;
  uint32_t random = 7;
  for (int i = 0; i < pieces; ++i) {
    random = random * 1664525 + 1013904223;
    const std::string& piece = all[(random >> 16) % all.size()];
    if (!ascii || static_cast<unsigned char>(piece[0]) < 128) text += piece;
  }
  return text;
}

constexpr const char* kMerges =
    "l o\nlo w\ne r\n\xc4\xa0 lo\n\xc4\xa0 low\nt h\nth e\n\xc4\xa0 \xc4\xa0\n\xc4\x8a \xc4\x8a\n\xc4\xa0 "
    "a\n' s\n";

std::vector<int64_t> all_of(const TokenStore& tokens) {
  std::vector<int64_t> ids(static_cast<size_t>(tokens.size()));
  tokens.copy(0, ids);
  return ids;
}

std::vector<int64_t> encoded(const preprocess::Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  return {ids.begin(), ids.end()};
}

std::unique_ptr<preprocess::Tokenizer> real_sentencepiece() {
  const std::filesystem::path folder = testing::real_data("sentencepiece");
  if (folder.empty()) return nullptr;
  std::ifstream in(folder / "test_model.model", std::ios::binary);
  return std::make_unique<preprocess::SentencePieceTokenizer>(
      std::string(std::istreambuf_iterator<char>(in), {}));
}

TEST(TextReader, PartsAndThreadsChangeNothing) {
  const TempFolder folder;
  const std::string text = made_up_text(3000);
  const std::vector<std::filesystem::path> files{folder.write("t.txt", text)};
  std::vector<std::unique_ptr<preprocess::Tokenizer>> tokenizers;
  tokenizers.push_back(std::make_unique<preprocess::ByteTokenizer>());
  tokenizers.push_back(std::make_unique<preprocess::CharTokenizer>(preprocess::CharTokenizer::fit(text)));
  tokenizers.push_back(std::make_unique<preprocess::BpeTokenizer>(kMerges));
  if (auto real = real_sentencepiece()) tokenizers.push_back(std::move(real));
  for (const auto& tokenizer : tokenizers) {
    const std::vector<int64_t> whole = encoded(*tokenizer, text);
    for (const auto& [bytes, threads] :
         {std::pair<size_t, int>{1, 1}, {1, 3}, {7, 2}, {200, 2}, {1 << 20, 1}}) {
      const TempFolder spool;
      for (const bool spooled : {false, true, true}) {  // the last time what is there is taken
        DatasetOptions options{.kind = "text"};
        options.opening = {.threads = threads, .part_bytes = bytes};
        if (spooled) options.opening.spool = spool.path();
        const TokenisedText read = tokenise(files, *tokenizer, options);
        EXPECT_EQ(all_of(*read.tokens), whole) << bytes << " " << threads;
        EXPECT_THAT(read.ends, IsEmpty());
      }
    }
  }
}

// Counts what it is given.
class CountingTokenizer : public preprocess::BpeTokenizer {
 public:
  CountingTokenizer() : BpeTokenizer(kMerges) {}
  void encode(std::string_view text, std::vector<uint32_t>& ids) const override {
    bytes += text.size();
    BpeTokenizer::encode(text, ids);
  }
  mutable std::atomic<size_t> bytes{0};
};

// Two files, one of them .gz, read into a spool.
struct Spooled {
  TempFolder folder, spool;
  std::string text[2] = {made_up_text(4000), made_up_text(2500, true)};
  std::vector<std::filesystem::path> files{
      folder.write("a.txt.gz", testing::gzip_bytes(testing::bytes_of(text[0]))),
      folder.write("b.txt", text[1])};
  DatasetOptions options{.kind = "text"};
  CancelToken cancel;

  explicit Spooled(const std::string& separator = "") {
    options.document_separator = separator;
    options.opening = {.threads = 2, .part_bytes = 300, .spool = spool.path(), .cancel = &cancel};
  }
  size_t bytes() const { return text[0].size() + text[1].size(); }
  // Reads until `rounds` more of them are told, or to the end.
  std::optional<TokenisedText> read(const preprocess::Tokenizer& tokenizer, int rounds) {
    cancel.cancel(0);
    const uint64_t all = std::filesystem::file_size(files[0]) + std::filesystem::file_size(files[1]);
    options.opening.progress = [this, rounds, all, told = 0](uint64_t, uint64_t total) mutable {
      if (total == all && ++told == rounds) cancel.cancel();  // not while what is there is compared
    };
    try {
      return tokenise(files, tokenizer, options);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kCancelled) throw;
      EXPECT_THAT(error.what(), HasSubstr("keeps what is done, the same command goes on there"));
      return std::nullopt;
    }
  }
};

TEST(TextReader, WhatWasTokenisedIsNotTokenisedAgain) {
  for (const std::string separator : {"", "\n\n"}) {
    Spooled set(separator);
    DatasetOptions plain = set.options;
    plain.opening = {};
    const TokenisedText expected = tokenise(set.files, preprocess::BpeTokenizer(kMerges), plain);
    const CountingTokenizer tokenizer;
    int times = 1;
    std::optional<TokenisedText> read;
    for (; times < 100 && !(read = set.read(tokenizer, 5)); ++times) continue;
    ASSERT_TRUE(read);
    EXPECT_GT(times, 3);
    EXPECT_LE(tokenizer.bytes, set.bytes());
    if (separator.empty()) {
      EXPECT_EQ(tokenizer.bytes, set.bytes());  // else but for empty documents
    }
    EXPECT_EQ(all_of(*read->tokens), all_of(*expected.tokens));
    EXPECT_EQ(read->ends, expected.ends);
  }
}

TEST(TextReader, ASpoolIsOfOneTextAndTokenizer) {
  Spooled set;
  const CountingTokenizer tokenizer;
  ASSERT_TRUE(set.read(tokenizer, 1000000));
  const auto taken_again = [&](const preprocess::Tokenizer& by) {
    const size_t before = tokenizer.bytes;
    return set.read(by, 1000000).has_value() && tokenizer.bytes == before;
  };
  EXPECT_TRUE(taken_again(tokenizer)) << "control";
  set.options.document_separator = "x";
  EXPECT_FALSE(taken_again(tokenizer));
  set.options.document_separator = "";
  const std::vector<int64_t> bytes = all_of(*set.read(preprocess::ByteTokenizer(), 1000000)->tokens);
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), set.text[0] + set.text[1]);
  EXPECT_TRUE(taken_again(tokenizer));
  set.folder.write("b.txt", made_up_text(2501, true));
  EXPECT_FALSE(taken_again(tokenizer));
}

TEST(TextReader, AnErrorOfTheTextLeavesNoSpool) {
  Spooled set;
  set.options.opening.part_bytes = 10;
  EXPECT_THROW(set.read(preprocess::CharTokenizer({'a', 'b'}), 1000000), Error);
  EXPECT_TRUE(std::filesystem::is_empty(set.spool.path()));
}

TEST(TextReader, AnAlphabetDoesNotDependOnThreadsAndIsKept) {
  Spooled set;
  const auto expected = preprocess::CharTokenizer::fit(set.text[0] + set.text[1]).alphabet();
  const auto read = [&](int threads, size_t bytes, bool spooled) {
    DatasetOptions options = set.options;
    options.document_separator = "\n\n";  // cuts documents, not characters
    options.opening = {.threads = threads, .part_bytes = bytes};
    if (spooled) options.opening.spool = set.spool.path();
    const auto found = alphabet_of(set.files, options);
    return std::vector<char32_t>(found.begin(), found.end());
  };
  for (const int threads : {1, 3}) {
    for (const size_t bytes : {size_t{1}, size_t{50}, size_t{1} << 20})
      EXPECT_EQ(read(threads, bytes, false), expected) << threads << " " << bytes;
  }
  EXPECT_EQ(read(1, 50, true), expected);
  const auto file = std::filesystem::directory_iterator(set.spool.path())->path();
  EXPECT_EQ(read(1, 50, true), expected);
  const std::string kept = furrow::read_file(file.string());
  const std::string numbers = "97 98";
  furrow::write_file_atomic(file.string(), to_hex(xxh3_64(numbers)) + "\n" + numbers);
  EXPECT_EQ(read(1, 50, true), (std::vector<char32_t>{'a', 'b'})) << "control: what is kept is taken";
  furrow::write_file_atomic(file.string(), kept.substr(0, kept.size() - 1));
  EXPECT_EQ(read(1, 50, true), expected) << "damaged";
}

TEST(TextReader, DocumentsAreEncodedAlone) {
  const TempFolder folder;
  const std::string first = made_up_text(500) + "\n\n\n\nthe end", second = "low\n\nlower";
  const std::vector<std::filesystem::path> files{folder.write("a.txt", first), folder.write("b.txt", second)};
  const preprocess::BpeTokenizer tokenizer(kMerges);
  // The definition: front to back, each with its separator, empty ones left out.
  std::vector<int64_t> ids, ends;
  for (std::string text : {first, second}) {
    while (!text.empty()) {
      const size_t found = text.find("\n\n");
      const std::string document = text.substr(0, found == text.npos ? found : found + 2);
      text.erase(0, document.size());
      if (document == "\n\n") continue;
      for (const int64_t id : encoded(tokenizer, document)) ids.push_back(id);
      ends.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  for (const size_t bytes : {size_t{1}, size_t{5}, size_t{100}, size_t{1} << 20}) {
    DatasetOptions options{.kind = "text", .document_separator = "\n\n"};
    options.opening = {.threads = 2, .part_bytes = bytes};
    const TokenisedText read = tokenise(files, tokenizer, options);
    EXPECT_EQ(all_of(*read.tokens), ids) << bytes;
    EXPECT_EQ(read.ends, ends) << bytes;
  }
}

// "aa" in "aaab" is the first two, however the file is read.
TEST(TextReader, SeparatorsAreFoundFromTheFront) {
  const TempFolder folder;
  const std::vector<std::filesystem::path> files{folder.write("a.txt", "xaaaby")};
  const preprocess::ByteTokenizer tokenizer;
  for (const size_t bytes : {size_t{1}, size_t{2}, size_t{100}}) {
    DatasetOptions options{.kind = "text", .document_separator = "aa"};
    options.opening = {.threads = 1, .part_bytes = bytes};
    EXPECT_THAT(tokenise(files, tokenizer, options).ends, ElementsAre(3, 6)) << bytes;
  }
}

// What is said while `work` runs.
template <class Work>
std::string said(const Work& work) {
  std::string log;
  set_log_writer([&log](std::string_view line) { log += line; });
  work();
  set_log_writer({});
  return log;
}

TEST(TextReader, AByteOrderMarkIsNoText) {
  const TempFolder folder;
  const std::string text = made_up_text(300), mark = "\xef\xbb\xbf";
  const std::vector<std::filesystem::path> plain{folder.write("a.txt", text), folder.write("b.txt", text)},
      marked{folder.write("c.txt", mark + text), folder.write("d.txt", mark + text)},
      inside{folder.write("e.txt", "x" + mark)}, alone{folder.write("f.txt", mark)};
  const preprocess::BpeTokenizer tokenizer(kMerges);
  for (const size_t bytes : {size_t{1}, size_t{2}, size_t{1000}}) {
    DatasetOptions options{.kind = "text"};
    options.opening = {.threads = 1, .part_bytes = bytes};
    std::vector<int64_t> tokens;
    EXPECT_EQ(said([&] { tokenise(plain, tokenizer, options); }), "") << bytes;
    const std::string log = said([&] { tokens = all_of(*tokenise(marked, tokenizer, options).tokens); });
    EXPECT_EQ(tokens, all_of(*tokenise(plain, tokenizer, options).tokens)) << bytes;
    EXPECT_THAT(log, HasSubstr("2 files with a byte order mark in front"));
    EXPECT_THAT(log, HasSubstr("c.txt"));
    EXPECT_EQ(alphabet_of(marked, options), alphabet_of(plain, options)) << bytes;
    EXPECT_TRUE(alphabet_of(inside, options).contains(0xFEFF)) << "within a text it is a character";
    EXPECT_THAT(error_of([&] { tokenise(alone, tokenizer, options); }).what(), HasSubstr("is empty"));
  }
  EXPECT_EQ(said([&] { tokenise(plain, tokenizer, {.kind = "text"}); }), "");
}

TEST(TextReader, SaysThatASeparatorNeverOccurs) {
  const TempFolder folder;
  const std::vector<std::filesystem::path> files{folder.write("a.txt", "one\n\n"),
                                                 folder.write("b.txt", "two")};
  const preprocess::ByteTokenizer tokenizer;
  const auto log_of = [&](const std::string& separator) {
    return said([&] { tokenise(files, tokenizer, {.kind = "text", .document_separator = separator}); });
  };
  EXPECT_THAT(log_of("\n--\n"), HasSubstr("document_separator = \"\\n--\\n\" does not occur in"));
  EXPECT_EQ(log_of("\n\n"), "");
  EXPECT_EQ(log_of(""), "");
}

TEST(TextReader, DocumentsBeginAndEndWithTokens) {
  const TempFolder folder;
  const std::vector<std::filesystem::path> files{folder.write("a.txt", "low--e--"),
                                                 folder.write("b.txt", "er")};
  const preprocess::BpeTokenizer tokenizer("l o\nlo w\ne r\n");
  const int64_t e = 'e' - 33, end = 259;
  const auto read = [&](const std::string& tokens) {
    DatasetOptions options{.kind = "text", .document_separator = "--", .document_tokens = tokens};
    const TokenisedText text = tokenise(files, tokenizer, options);
    return std::pair(all_of(*text.tokens), text.ends);
  };
  const int64_t dash = '-' - 33;
  EXPECT_EQ(read("none"), std::pair(std::vector<int64_t>({257, dash, dash, e, dash, dash, 258}),
                                    std::vector<int64_t>({3, 6, 7})));
  EXPECT_EQ(read("end"),
            std::pair(std::vector<int64_t>({257, end, e, end, 258, end}), std::vector<int64_t>({2, 4, 6})));
  EXPECT_EQ(read("begin_end"), std::pair(std::vector<int64_t>({end, 257, end, end, e, end, end, 258, end}),
                                         std::vector<int64_t>({3, 6, 9})));
  DatasetOptions options{.kind = "text", .document_tokens = "end"};
  EXPECT_THAT(error_of([&] { tokenise(files, tokenizer, options); }).what(),
              HasSubstr("say with document_separator"));
  options.document_separator = "--";
  options.tokenizer = "byte";
  EXPECT_THAT(error_of([&] { tokenise(files, preprocess::ByteTokenizer(), options); }).what(),
              HasSubstr("this tokenizer (byte) has no token for the end of a text: use gpt2"));
  if (const auto real = real_sentencepiece()) {
    EXPECT_EQ(real->begin_token(), 1u);
    EXPECT_EQ(real->end_token(), 2u);
  }
}

TEST(TextReader, AFolderIsItsTextsByName) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "b");
  folder.write("c.txt", "third ");
  folder.write("b/x.txt", "second ");
  folder.write("a.txt.gz", testing::gzip_bytes(testing::bytes_of("first ")));
  folder.write("empty.txt", "");
  folder.write("notes.md", "not a text");
  folder.write("._c.txt", "what macOS leaves ");
  std::filesystem::create_directories(folder / "b/.ipynb_checkpoints");
  folder.write("b/.ipynb_checkpoints/x.txt", "an earlier second ");
  DatasetOptions options{.kind = "text", .path = folder.path(), .context = 4, .tokenizer = "byte"};
  const auto text_of = [&] {
    const std::vector<int64_t> ids =
        all_of(*tokenise(text_files(options), preprocess::ByteTokenizer(), options).tokens);
    return std::string(ids.begin(), ids.end());
  };
  EXPECT_EQ(text_of(), "first second third ");
  options.text_files = {"c.txt", "a.txt"};
  EXPECT_EQ(text_of(), "third first ");
  EXPECT_EQ(open_dataset(options).train->size(), 12 - 4);
  options.tokenizer = "char";
  EXPECT_EQ(open_dataset(options).train->classes(), 8);  // space d f h i r s t, and none of "second" alone
  options.text_files = {"c.txt", "none.txt"};
  EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr("none.txt"));
  options.text_files = {"empty.txt"};
  EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr("empty.txt is empty"));
  std::filesystem::create_directories(folder / "nothing");
  const DatasetOptions nothing{.kind = "text", .path = folder / "nothing", .context = 4};
  EXPECT_THAT(error_of([&] { open_dataset(nothing); }).what(), HasSubstr("holds no .txt and no .txt.gz"));
}

TEST(TextReader, DamageIsNamedWithFileAndPlace) {
  const TempFolder folder;
  std::string text(500, 'a');
  text[300] = '\xff';
  DatasetOptions options{.kind = "text", .path = folder.write("t.txt", text), .context = 4};
  options.opening.part_bytes = 100;
  const Error error = error_of([&] { open_dataset(options); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr("t.txt"));
  EXPECT_THAT(error.what(), HasSubstr("counted from byte 300: "));
  const preprocess::CharTokenizer letters({'b', 'c'});
  text = std::string(100, 'b') + "z";
  const std::vector<std::filesystem::path> files{folder.write("u.txt", text)};
  options.opening.part_bytes = 10;
  EXPECT_THAT(error_of([&] { tokenise(files, letters, options); }).what(),
              HasSubstr("u.txt: counted from byte 100: character U+007A at byte 0"));
}

TEST(TextReader, SaysHowFarItIsAndStops) {
  const TempFolder folder;
  const std::vector<std::filesystem::path> files{folder.write("a.txt", made_up_text(2000, true)),
                                                 folder.write("b.txt", made_up_text(500, true))};
  DatasetOptions options{.kind = "text"};
  CancelToken cancel;
  uint64_t seen = 0, all = 0;
  options.opening = {.threads = 1, .part_bytes = 50, .cancel = &cancel};
  options.opening.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, seen);
    seen = done;
    all = total;
  };
  tokenise(files, preprocess::ByteTokenizer(), options);
  EXPECT_EQ(seen, all);
  EXPECT_EQ(all, std::filesystem::file_size(files[0]) + std::filesystem::file_size(files[1]));
  seen = 0;
  const auto told = options.opening.progress;
  options.opening.progress = [&](uint64_t done, uint64_t total) {
    told(done, total);
    if (done > 500) cancel.cancel();
  };
  EXPECT_EQ(error_of([&] { tokenise(files, preprocess::ByteTokenizer(), options); }).code(),
            ErrorCode::kCancelled);
  EXPECT_LT(seen, 1000u);
}

TEST(TextReader, IsConfigured) {
  const TempFolder folder;
  folder.write("one.txt", "abcdefgh--ijkl");
  folder.write("two.txt", "mnop");
  folder.write("vocab.bpe", "a b\n");
  const config::Config config = config::parse(
      "[model]\nname = \"gpt\"\n[training]\nsteps = 1\ndataset = \"text\"\nseq_len = 8\ndataset_path = \"" +
          folder.path().string() +
          "\"\n[data]\ntext_files = [\"two.txt\", \"one.txt\"]\ntokenizer = \"gpt2\"\n" +
          "tokenizer_path = \"" + folder.path().string() +
          "\"\ndocument_separator = \"--\"\ndocument_tokens = \"end\"\nvalidation_fraction = 0\n",
      "c.toml");
  EXPECT_TRUE(config::ignored_settings(config).empty());
  const Dataset dataset = open_dataset(config);
  EXPECT_EQ(dataset.train->classes(), 258);
  EXPECT_EQ(dataset.train->size(), 2);  // 4, 7 and 4 predictions in rows of 8
}

}  // namespace
}  // namespace furrow::data
