// Documents in rows: every prediction once, little padding, a pure function; packs give the same.
#include "furrow/data/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/rng.h"
#include "furrow/data/dataset.h"
#include "furrow/data/pack.h"
#include "furrow/data/test_files.h"
#include "furrow/preprocess/tokenizer.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

std::vector<DocumentPiece> row(const PackedRows& rows, int64_t index) {
  const auto pieces = rows.row(index);
  return {pieces.begin(), pieces.end()};
}

TEST(Documents, FillRowsByBestFit) {
  // Predictions 4, 1, 5, 3, 12 = 8 + 4, 2 in rows of 8: 8 alone; 5 + 3; 4 + 4; 2 + 1.
  const PackedRows rows = pack_rows(0, std::vector<int64_t>{5, 7, 13, 17, 30, 33}, 8);
  ASSERT_EQ(rows.rows(), 4);
  EXPECT_THAT(row(rows, 0), ElementsAre(DocumentPiece{0, 4}, DocumentPiece{25, 4}));
  EXPECT_THAT(row(rows, 1), ElementsAre(DocumentPiece{5, 1}, DocumentPiece{30, 2}));
  EXPECT_THAT(row(rows, 2), ElementsAre(DocumentPiece{7, 5}, DocumentPiece{13, 3}));
  EXPECT_THAT(row(rows, 3), ElementsAre(DocumentPiece{17, 8}));
}

TEST(Documents, EveryPredictionComesOnce) {
  for (const int64_t context : {1, 7, 64, 130}) {
    std::vector<int64_t> ends;
    int64_t at = 3;
    std::set<int64_t> wanted;
    for (uint64_t i = 0; i < 500; ++i) {
      const auto size = static_cast<int64_t>(philox4x32({0, static_cast<uint32_t>(i), 0, 0}, {1, 2})[0] % 90);
      if (size == 0) continue;
      for (int64_t t = at + 1; t < at + size; ++t) wanted.insert(t);
      ends.push_back(at += size);
    }
    const PackedRows rows = pack_rows(3, ends, context);
    std::multiset<int64_t> predicted;
    int64_t room = 0, open = 0;
    for (int64_t i = 0; i < rows.rows(); ++i) {
      int64_t used = 0;
      for (const DocumentPiece& piece : rows.row(i)) {
        used += piece.count;
        for (int64_t t = 1; t <= piece.count; ++t) predicted.insert(piece.begin + t);
      }
      EXPECT_LE(used, context);
      EXPECT_GT(used, 0);
      room += context - used;
      open += 2 * used <= context;
    }
    EXPECT_EQ(predicted.size(), wanted.size());
    EXPECT_TRUE(std::ranges::equal(predicted, wanted));
    EXPECT_LE(open, 1);  // two rows half empty would have been one
    EXPECT_LT(room, rows.rows() * context / 20 + context) << context;
  }
}

std::shared_ptr<const Tokens> numbered(uint32_t count) {
  std::vector<uint32_t> ids(count);
  for (uint32_t i = 0; i < count; ++i) ids[i] = i + 1;
  return std::make_shared<const Tokens>(ids, 300);
}

std::vector<int64_t> of(const ArrayView& view) {
  const auto values = view.as<int64_t>();
  return {values.begin(), values.end()};
}

TEST(Documents, AreReadWithTheirPositions) {
  const DocumentSource source(numbered(33), 0, {5, 7, 13, 17, 30, 33}, 8);
  EXPECT_EQ(source.predictions(), 4 + 1 + 5 + 3 + 12 + 2);
  ReadBuffers buffers(source, 2);
  source.read(std::vector<int64_t>{1, 0}, buffers.views);
  constexpr int64_t x = kIgnoredTarget;
  EXPECT_THAT(of(buffers.views[0]), ElementsAre(6, 31, 32, 0, 0, 0, 0, 0, 1, 2, 3, 4, 26, 27, 28, 29));
  EXPECT_THAT(of(buffers.views[1]), ElementsAre(7, 32, 33, x, x, x, x, x, 2, 3, 4, 5, 27, 28, 29, 30));
  EXPECT_THAT(of(buffers.views[2]), ElementsAre(0, 0, 1, 0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 3));
}

DatasetOptions options_of(const std::filesystem::path& path) {
  DatasetOptions options{.kind = "text", .path = path, .context = 6};
  options.document_separator = "\n\n";
  return options;
}

// What a source predicts, with what, in order.
std::string text_of(const Dataset& dataset, const Source& source) {
  const auto tokenizer = preprocess::load_as<preprocess::Tokenizer>(dataset.preprocessing);
  const auto letter = [&](int64_t id) {
    return tokenizer->decode(std::vector<uint32_t>{static_cast<uint32_t>(id)});
  };
  std::string text;
  ReadBuffers buffers(source, 1);
  for (int64_t i = 0; i < source.size(); ++i) {
    source.read(std::vector<int64_t>{i}, buffers.views);
    const auto input = of(buffers.views[0]), target = of(buffers.views[1]), position = of(buffers.views[2]);
    for (size_t t = 0; t < input.size() && target[t] != kIgnoredTarget; ++t) {
      if (position[t] == 0) (text += '|') += letter(input[t]);
      text += letter(target[t]);
    }
  }
  return text;
}

TEST(Documents, EndWithTheirSeparatorAndAreHeldBackWhole) {
  const TempFolder folder;
  DatasetOptions options = options_of(folder.write("t.txt", "\n\nabc\n\n\n\ndefgh\n\nij\n\nklmno"));
  options.validation_fraction = options.test_fraction = 0.25;
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(text_of(dataset, *dataset.train), "|abc\n\n|defgh\n\n");
  EXPECT_EQ(text_of(dataset, *dataset.validation), "|ij\n\n");
  EXPECT_EQ(text_of(dataset, *dataset.test), "|klmno");
  EXPECT_EQ(dataset.train->fields(), document_fields(6));
}

std::string error_of(const DatasetOptions& options) {
  try {
    open_dataset(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Documents, SayWhatIsWrong) {
  const TempFolder folder;
  EXPECT_THAT(error_of(options_of(folder.write("a.txt", "\n\n\n\n"))), HasSubstr("holds no document"));
  DatasetOptions options = options_of(folder.write("b.txt", "abc\n\nd"));
  options.validation_fraction = 0.5;
  EXPECT_THAT(
      error_of(options),
      HasSubstr("no document of the validation split has two tokens, so that there is nothing to predict"));
  options.validation_fraction = 0.4;
  options.test_fraction = 0.5;
  EXPECT_THAT(error_of(options), HasSubstr("leave nothing to train on"));
}

TEST(Documents, APackWhoseEndsAreDamagedIsRefused) {
  const TempFolder folder;
  const DatasetOptions options = options_of(folder.write("t.txt", "abcdef\n\nghijkl\n\nmnopqr\n\n"));
  const std::string packed = (folder / "pack").string();
  write_pack(open_dataset(options), {.folder = packed, .kind = "text"});
  const storage::PackInfo info = storage::read_pack(packed);
  EXPECT_EQ(info.layout, "documents");
  ASSERT_NE(info.find("train.ends"), nullptr);
  EXPECT_EQ(info.find("train.ends")->records(), 3);
  DatasetOptions of_pack = options;
  of_pack.kind = "pack";
  of_pack.path = packed;
  ASSERT_EQ(error_of(of_pack), "no error");
  EXPECT_EQ(probe(of_pack).train_samples, open_dataset(of_pack).train->size());

  const auto rewrite = [&](const std::vector<int64_t>& ends) {
    const std::string path = packed + "/train.ends-00000.shard";
    remove_all(path);
    storage::ShardWriter writer(path, 8, 0);
    writer.append(std::as_bytes(std::span(ends)));
    storage::PackInfo other = info;
    for (storage::PackSplit& split : other.splits)
      if (split.name == "train.ends") split.shards = {writer.commit()};
    storage::write_pack(packed, other);
    return error_of(of_pack);
  };
  EXPECT_EQ(rewrite({8, 16, 24}), "no error");  // control
  for (const std::vector<int64_t>& ends : std::vector<std::vector<int64_t>>{
           {8, 8, 24}, {16, 8, 24}, {8, 16, 23}, {8, 16, 25}, {-1, 16, 24}, {24, -8, 24}}) {
    EXPECT_THAT(rewrite(ends), HasSubstr("do not ascend"));
  }
}

}  // namespace
}  // namespace furrow::data
