#include "furrow/data/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "furrow/base/error.h"
#include "furrow/data/dataset.h"
#include "furrow/data/files.h"
#include "furrow/data/test_files.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::data {
namespace {

using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

std::vector<int64_t> values(const ArrayView& view) {
  const auto all = view.as<int64_t>();
  return {all.begin(), all.end()};
}

// Sample `index` as {input, target}.
std::pair<std::vector<int64_t>, std::vector<int64_t>> sample(const Source& source, int64_t index) {
  ReadBuffers buffers(source, 1);
  source.read(std::vector<int64_t>{index}, buffers.views);
  return {values(buffers.views[0]), values(buffers.views[1])};
}

std::string message_of(const DatasetOptions& options, ErrorCode code = ErrorCode::kInvalidArgument) {
  try {
    open_dataset(options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "no error";
}

std::string alphabet_text(int length) {
  std::string text;
  for (int i = 0; i < length; ++i) text.push_back(static_cast<char>('a' + i * 7 % 26));
  return text;
}

TEST(Tokens, AreAsNarrowAsTheVocabularyAllows) {
  const std::vector<uint32_t> ids{3, 0, 2};
  const std::pair<int64_t, int> widths[] = {{4, 1}, {256, 1}, {257, 2}, {65536, 2}, {65537, 4}};
  for (const auto& [vocabulary, width] : widths) {
    const Tokens tokens(ids, vocabulary);
    EXPECT_EQ(tokens.width(), width);
    std::vector<int64_t> out(2);
    tokens.copy(1, out);
    EXPECT_EQ(out, (std::vector<int64_t>{0, 2}));
  }
}

TEST(TextSource, WindowsOfStrideOne) {
  std::vector<uint32_t> ids(20);
  std::iota(ids.begin(), ids.end(), 0);
  const TextSource source(std::make_shared<Tokens>(ids, 20), {5, 15}, every_window(4));
  ASSERT_EQ(source.size(), 6);
  for (int64_t i = 0; i < 6; ++i) {
    const auto [input, target] = sample(source, i);
    EXPECT_EQ(input, (std::vector<int64_t>{5 + i, 6 + i, 7 + i, 8 + i}));
    EXPECT_EQ(target, (std::vector<int64_t>{6 + i, 7 + i, 8 + i, 9 + i}));
  }
  EXPECT_THROW(sample(source, 6), Error);
}

// Every token of the split but the first is predicted once, up to a rest shorter than a window.
TEST(TextSource, WindowsThatDoNotOverlapPredictEveryTokenOnce) {
  std::vector<uint32_t> ids(200);
  std::iota(ids.begin(), ids.end(), 0);
  for (const int64_t end : {105, 106, 108, 109}) {
    const TextSource source(std::make_shared<Tokens>(ids, 200), {100, end}, {.context = 4, .stride = 4});
    std::vector<int64_t> predicted, expected;
    for (int64_t i = 0; i < source.size(); ++i) {
      for (const int64_t token : sample(source, i).second) predicted.push_back(token);
    }
    for (int64_t token = 101; token <= 100 + (end - 101) / 4 * 4; ++token) expected.push_back(token);
    EXPECT_EQ(predicted, expected) << end;
  }
}

TEST(TextSource, SeveralRowsEqualSingleReads) {
  std::vector<uint32_t> ids(300);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint32_t>(i * 37 % 300);
  const TextSource source(std::make_shared<Tokens>(ids, 300), {0, 300}, every_window(8));
  const std::vector<int64_t> wanted{7, 0, 291, 7};
  ReadBuffers buffers(source, wanted.size());
  source.read(wanted, buffers.views);
  for (size_t row = 0; row < wanted.size(); ++row) {
    const auto [input, target] = sample(source, wanted[row]);
    const auto all = values(buffers.views[0]);
    EXPECT_TRUE(std::equal(input.begin(), input.end(), all.begin() + static_cast<long>(row * 8)));
    EXPECT_EQ(values(buffers.views[1])[row * 8], target[0]);
  }
}

// Sample `index` of `epoch` as {input, target}.
std::pair<std::vector<int64_t>, std::vector<int64_t>> sample_of_epoch(const Source& source, int64_t epoch,
                                                                      int64_t index) {
  ReadBuffers buffers(source, 1);
  source.read_at(std::vector<int64_t>{index}, std::vector<int64_t>{epoch * source.size() + index},
                 buffers.views);
  return {values(buffers.views[0]), values(buffers.views[1])};
}

// The tokens that an epoch predicts, in the order of its samples.
std::vector<int64_t> predicted_in(const Source& source, int64_t epoch) {
  std::vector<int64_t> predicted;
  for (int64_t i = 0; i < source.size(); ++i) {
    const auto [input, target] = sample_of_epoch(source, epoch, i);
    EXPECT_TRUE(std::equal(input.begin() + 1, input.end(), target.begin()));
    predicted.insert(predicted.end(), target.begin(), target.end());
  }
  return predicted;
}

TEST(TextSource, AnEpochOfDisjointWindowsHasEachTokenOnceAndAllEpochsTogetherEveryWindow) {
  constexpr int64_t kContext = 8, kBegin = 10, kEnd = 110;
  std::vector<uint32_t> ids(kEnd);
  std::iota(ids.begin(), ids.end(), 0);
  const auto tokens = std::make_shared<Tokens>(ids, kEnd);
  const TextSource source(tokens, {kBegin, kEnd}, disjoint_windows(kContext, 3));
  ASSERT_EQ(source.size(), (kEnd - kBegin - 2 * kContext) / kContext + 1);
  std::set<int64_t> begins;
  std::vector<int64_t> drawn;
  for (int64_t epoch = 0; epoch < 100; ++epoch) {
    const std::vector<int64_t> predicted = predicted_in(source, epoch);
    std::vector<int64_t> expected(predicted.size());
    std::iota(expected.begin(), expected.end(), predicted.front());
    ASSERT_EQ(predicted, expected) << "side by side";
    ASSERT_GE(predicted.front(), kBegin + 1);
    ASSERT_LT(predicted.back(), kEnd);
    begins.insert(predicted.front() - kBegin - 1);
    drawn.push_back(predicted.front());
  }
  EXPECT_EQ(begins.size(), static_cast<size_t>(kContext)) << "every place of the first window comes";
  EXPECT_EQ(*begins.rbegin(), kContext - 1);
  const TextSource same(tokens, {kBegin, kEnd}, disjoint_windows(kContext, 3));
  const TextSource other(tokens, {kBegin, kEnd}, disjoint_windows(kContext, 4));
  int differences = 0;
  for (int64_t epoch = 0; epoch < 100; ++epoch) {
    EXPECT_EQ(predicted_in(same, epoch).front(), drawn[static_cast<size_t>(epoch)]);
    differences += predicted_in(other, epoch).front() != drawn[static_cast<size_t>(epoch)];
  }
  EXPECT_GT(differences, 50) << "control: another seed";
}

TEST(TextSource, DisjointWindowsOfAShortTextTakeThePlacesThatItHas) {
  std::vector<uint32_t> ids(12);
  std::iota(ids.begin(), ids.end(), 0);
  for (int64_t end = 9; end <= 12; ++end) {
    const TextSource source(std::make_shared<Tokens>(ids, 12), {0, end}, disjoint_windows(8, 1));
    ASSERT_EQ(source.size(), 1);
    std::set<int64_t> begins;
    for (int64_t epoch = 0; epoch < 60; ++epoch) begins.insert(predicted_in(source, epoch).front() - 1);
    EXPECT_EQ(begins.size(), static_cast<size_t>(end - 8));
    EXPECT_EQ(*begins.rbegin(), end - 9);
  }
}

// What is read without positions is not moved: evaluation, and what a pack is made from.
TEST(TextSource, OnlyTrainingMovesWindows) {
  std::vector<uint32_t> ids(100);
  std::iota(ids.begin(), ids.end(), 0);
  const TextSource source(std::make_shared<Tokens>(ids, 100), {0, 100}, disjoint_windows(8, 3));
  for (int64_t i = 0; i < source.size(); ++i) EXPECT_EQ(sample(source, i).first.front(), 8 * i);
}

TEST(TextSets, DocumentsAreNotCutIntoDisjointWindows) {
  const TempFolder folder;
  DatasetOptions options{.kind = "text", .path = folder.write("t", "abab\n\nbaba\n\nabba"), .context = 2};
  options.document_separator = "\n\n";
  EXPECT_NO_THROW(open_dataset(options));
  options.disjoint_windows = true;
  EXPECT_THAT([&] { open_dataset(options); },
              ::testing::ThrowsMessage<Error>(HasSubstr("leave one of them out")));
}

TEST(TextSets, CutFromFrontToBack) {
  const TempFolder folder;
  const std::string text = alphabet_text(100);
  DatasetOptions options{.kind = "text", .path = folder.write("t.txt", text), .context = 4};
  options.validation_fraction = 0.2;
  options.test_fraction = 0.1;
  const Dataset dataset = open_dataset(options);
  const auto tokenizer = preprocess::load_as<preprocess::Tokenizer>(dataset.preprocessing);
  const auto first = [&](const Source& source) {
    const auto input = sample(source, 0).first;
    return tokenizer->decode(std::vector<uint32_t>(input.begin(), input.end()));
  };
  EXPECT_EQ(first(*dataset.train), text.substr(0, 4));
  EXPECT_EQ(first(*dataset.validation), text.substr(70, 4));
  EXPECT_EQ(first(*dataset.test), text.substr(90, 4));
  EXPECT_EQ(dataset.train->size(), 66);
  EXPECT_EQ(dataset.validation->size(), 4);
  EXPECT_EQ(dataset.train->classes(), 26);
  EXPECT_EQ(dataset.preprocessing.at("classes"), "26");
  const DataInfo info = probe(options);
  EXPECT_EQ(info.fields, dataset.train->fields());
  EXPECT_EQ(info.classes, 26);
  EXPECT_EQ(info.train_samples, 66);
}

TEST(TextSets, NoFractionsNoSplits) {
  const TempFolder folder;
  const Dataset dataset = open_dataset(
      {.kind = "text", .path = folder.write("t", alphabet_text(50)), .context = 8, .tokenizer = "byte"});
  EXPECT_EQ(dataset.validation, nullptr);
  EXPECT_EQ(dataset.test, nullptr);
  EXPECT_EQ(dataset.train->size(), 42);
  EXPECT_EQ(dataset.train->classes(), 256);
  EXPECT_EQ(find_split(dataset, Split::kTrain), dataset.train.get());
  EXPECT_EQ(find_split(dataset, Split::kTest), nullptr);
}

TEST(TextSets, PackedEqualsPlain) {
  const TempFolder folder;
  const std::string text = alphabet_text(60);
  folder.write("a.txt", text);
  folder.write("b.txt.gz", testing::gzip_bytes(testing::bytes_of(text)));
  const Dataset plain = open_dataset({.kind = "text", .path = folder / "a.txt", .context = 16});
  const Dataset packed = open_dataset({.kind = "text", .path = folder / "b.txt", .context = 16});
  EXPECT_EQ(sample(*plain.train, 5), sample(*packed.train, 5));
  EXPECT_EQ(plain.preprocessing, packed.preprocessing);
}

TEST(TextSets, FittedEarlierIsUsedInsteadOfFitting) {
  const TempFolder folder;
  const Dataset first = open_dataset({.kind = "text", .path = folder.write("a", "abcdefgh"), .context = 2});
  const DatasetOptions other{.kind = "text", .path = folder.write("b", "hhhgggfff"), .context = 2};
  EXPECT_EQ(sample(*open_dataset(other, &first.preprocessing).train, 0).first, (std::vector<int64_t>{7, 7}));
  EXPECT_EQ(sample(*open_dataset(other).train, 0).first, (std::vector<int64_t>{2, 2}));
  const DatasetOptions unknown{.kind = "text", .path = folder.write("c", "abcz"), .context = 2};
  try {
    open_dataset(unknown, &first.preprocessing);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("U+007A at byte 3"));
    EXPECT_THAT(error.what(), HasSubstr((folder / "c").string()));
  }
}

TEST(TextSets, BadInputIsNamed) {
  const TempFolder folder;
  const auto text = folder.write("t", alphabet_text(100));
  DatasetOptions options{.kind = "text", .path = text, .context = 100};
  EXPECT_THAT(message_of(options),
              HasSubstr("training split has 100 tokens, but one sample needs seq_len + 1 = 101"));
  options.context = 30;
  options.validation_fraction = 0.1;
  EXPECT_THAT(message_of(options), HasSubstr("validation split has 10 tokens"));
  options.validation_fraction = 0.999;
  EXPECT_THAT(message_of(options), HasSubstr("leaves nothing to train on"));
  options.validation_fraction = options.test_fraction = 0.5;
  EXPECT_THAT(message_of(options), HasSubstr("leave nothing to train on"));
  options = {.kind = "text", .path = text, .context = 0};
  EXPECT_THAT(message_of(options), HasSubstr("seq_len = 0"));
  options = {.kind = "text", .path = folder.write("empty", ""), .context = 4};
  EXPECT_THAT(message_of(options), HasSubstr("is empty"));
  options = {.kind = "texts", .path = text, .context = 4};
  EXPECT_THAT(message_of(options), HasSubstr("did you mean 'text'"));
  options = {.kind = "text", .path = text, .context = 4, .tokenizer = "chars"};
  EXPECT_THAT(message_of(options), HasSubstr("did you mean 'char'"));
  EXPECT_THAT(message_of({.kind = "text"}), HasSubstr("dataset_path is empty"));
}

TEST(TextSets, BrokenUtf8NamesTheFileAndTheOffset) {
  const TempFolder folder;
  const auto path = folder.write("latin", "caf\xe9 au lait");
  try {
    open_dataset({.kind = "text", .path = path, .context = 2});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
    EXPECT_THAT(error.what(), HasSubstr("offset 3"));
  }
  EXPECT_EQ(open_dataset({.kind = "text", .path = path, .context = 2, .tokenizer = "byte"}).train->size(),
            10);
}

// nanoGPT's counts for its split at the 1,003,854th character.
TEST(TextSets, TinyShakespeareHasTheKnownGpt2Tokens) {
  const auto path = testing::real_data("tinyshakespeare"), merges = testing::real_data("gpt2-tokenizer");
  FURROW_NEED_DATA(path, "tinyshakespeare");
  FURROW_NEED_DATA(merges, "gpt2-tokenizer");
  const Bytes file = read_contents(require_file(path / "input.txt"));
  const TempFolder folder;
  int64_t total = 0;
  for (const auto& [text, expected] :
       {std::pair(file.as_text().substr(0, 1003854), 301966), {file.as_text().substr(1003854), 36059}}) {
    const Dataset dataset = open_dataset({.kind = "text",
                                          .path = folder.write("part.txt", text),
                                          .context = 64,
                                          .tokenizer = "gpt2",
                                          .tokenizer_path = merges});
    EXPECT_EQ(dataset.train->size() + 64, expected);
    EXPECT_EQ(dataset.train->classes(), 50257);
    total += dataset.train->size() + 64;
  }
  EXPECT_EQ(total, 338025);
}

TEST(TextSets, TokenizersOfFilesNeedThem) {
  const TempFolder folder;
  DatasetOptions options{
      .kind = "text", .path = folder.write("t.txt", "abcabcabc"), .context = 2, .tokenizer = "gpt2"};
  EXPECT_THAT(message_of(options), HasSubstr("tokenizer = gpt2 needs its file vocab.bpe"));
  options.tokenizer_path = folder.path();
  EXPECT_THAT(
      message_of(options, ErrorCode::kNotFound),
      HasSubstr("vocab.bpe: set [data] tokenizer_path to the file of tokenizer = gpt2, or to a folder"));
  folder.write("vocab.bpe", "a b\nab c\n");
  options.tokenizer_path = folder.path();
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(dataset.train->size(), 1);
  EXPECT_EQ(sample(*dataset.train, 0).first, (std::vector<int64_t>{257, 257}));
  folder.write("vocab.bpe", "a b\nab c");  // as a copy that was cut off leaves it
  EXPECT_THAT(message_of(options, ErrorCode::kDataLoss), HasSubstr("its last line has no end"));
  folder.write("vocab.bpe", "a b\nab c\n");
  EXPECT_EQ(open_dataset(options, &dataset.preprocessing).train->classes(), 259);
  folder.write("vocab.bpe", "a b\nac d\n");
  EXPECT_THROW(open_dataset(options), Error);
}

TEST(TextSets, TinyShakespeareIsCutAsInNanoGpt) {
  const auto path = testing::real_data("tinyshakespeare");
  FURROW_NEED_DATA(path, "tinyshakespeare");
  DatasetOptions options{.kind = "text", .path = path / "input.txt", .context = 64};
  options.validation_fraction = 0.1;
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(dataset.train->classes(), 65);
  EXPECT_EQ(dataset.train->size(), 1003854 - 64);
  EXPECT_EQ(dataset.validation->size(), (111540 - 1) / 64);
  // "First Citizen:\nBefore" in nanoGPT's ids.
  const auto [input, target] = sample(*dataset.train, 0);
  EXPECT_EQ(std::vector<int64_t>(input.begin(), input.begin() + 8),
            (std::vector<int64_t>{18, 47, 56, 57, 58, 1, 15, 47}));
  EXPECT_EQ(target[0], 47);
}

}  // namespace
}  // namespace furrow::data
