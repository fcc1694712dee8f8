// What a spool keeps, whatever was left of it.
#include "furrow/data/token_spool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/file.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::TempFolder;

constexpr int64_t kVocabulary = 1000;  // two bytes a token

std::unique_ptr<TokenSpool> open(const TempFolder& folder, const std::string& identity = "x") {
  return std::make_unique<TokenSpool>(folder.path(), identity, kVocabulary,
                                      [](uint64_t done, uint64_t total) { EXPECT_LE(done, total); });
}

std::vector<int64_t> tokens_of(TokenSpool& spool) {
  const auto tokens = spool.finish();
  std::vector<int64_t> ids(static_cast<size_t>(tokens->size()));
  tokens->copy(0, ids);
  return ids;
}

// Three stretches, of 2, 0 and 3 tokens, and one more that has no mark.
void write(const TempFolder& folder) {
  const auto spool = open(folder);
  spool->append(std::vector<uint32_t>{1, 500});
  spool->mark({0, 10}, std::vector<int64_t>{1, 2});
  spool->mark({1, 0}, {});
  spool->append(std::vector<uint32_t>{7});
  spool->append(std::vector<uint32_t>{8, 999});
  spool->mark({1, 30}, std::vector<int64_t>{5});
  spool->append(std::vector<uint32_t>{4});
}

TEST(TokenSpool, KeepsWhatIsMarked) {
  const TempFolder folder;
  write(folder);
  for (int times = 0; times < 2; ++times) {
    const auto spool = open(folder);
    EXPECT_EQ(spool->place(), (TextPlace{1, 30}));
    EXPECT_THAT(spool->ends(), ElementsAre(1, 2, 5));
    EXPECT_THAT(tokens_of(*spool), ElementsAre(1, 500, 7, 8, 999));
  }
  const auto spool = open(folder);
  spool->append(std::vector<uint32_t>{3});
  spool->mark({2, 0}, {});
  EXPECT_EQ(open(folder)->place(), (TextPlace{2, 0}));
  EXPECT_THAT(tokens_of(*open(folder)), ElementsAre(1, 500, 7, 8, 999, 3));
  EXPECT_EQ(open(folder, "y")->size(), 0) << "another text";
  open(folder)->discard();
  EXPECT_EQ(open(folder)->size(), 0);
}

// The journal of one text beside the tokens of another that are alike is nothing.
TEST(TokenSpool, ARecordIsOfItsText) {
  const TempFolder folder;
  write(folder);
  for (const char* ending : {".tokens", ".journal"})
    std::filesystem::copy(folder / ("text-x" + std::string(ending)),
                          folder / ("text-z" + std::string(ending)));
  EXPECT_EQ(open(folder, "z")->size(), 0);
  EXPECT_EQ(open(folder)->size(), 5) << "control";
}

// Whatever bit is lost, what is kept is a front of what was written.
TEST(TokenSpool, DamageCostsWhatLiesBehindIt) {
  const TempFolder folder;
  write(folder);
  const std::string tokens = furrow::read_file((folder / "text-x.tokens").string()),
                    journal = furrow::read_file((folder / "text-x.journal").string());
  const std::vector<int64_t> whole{1, 500, 7, 8, 999};
  const auto kept = [&](const std::string& some_tokens, const std::string& some_journal) {
    folder.write("text-x.tokens", some_tokens);
    folder.write("text-x.journal", some_journal);
    const auto spool = open(folder);
    const std::vector<int64_t> ids = tokens_of(*spool);
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), whole.begin()));
    EXPECT_EQ(spool->ends().size(), ids.empty() ? 0u : ids.size() == 2 ? 2u : 3u);
    return spool->size();
  };
  EXPECT_EQ(kept(tokens, journal), 5) << "control";
  for (size_t at = 0; at < journal.size(); ++at) {
    std::string flipped = journal;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    EXPECT_LT(kept(tokens, flipped), 5) << at;
    EXPECT_LT(kept(tokens, journal.substr(0, at)), 5) << at;
  }
  for (size_t at = 0; at < 10; ++at) {
    std::string flipped = tokens;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    EXPECT_EQ(kept(flipped, journal), at < 4 ? 0 : 2) << at;
    EXPECT_EQ(kept(tokens.substr(0, at), journal), at < 4 ? 0 : 2) << at;
  }
}

}  // namespace
}  // namespace furrow::data
