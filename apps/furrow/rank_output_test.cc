#include "apps/furrow/rank_output.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

namespace furrow::app {
namespace {

class RankOutputTest : public ::testing::Test {
 protected:
  RankOutputTest() {
    std::string pattern = ::testing::TempDir() + "/furrow-output-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~RankOutputTest() override { std::filesystem::remove_all(folder_); }
  std::string log(int rank) { return read_file(folder_ + "/logs/rank-" + std::to_string(rank) + ".log"); }
  std::string taken() { return std::exchange(screen_, ""); }

  std::string folder_, screen_;
  RankOutput output_{3, [this](std::string_view text) { screen_ += text; }};
};

TEST_F(RankOutputTest, OtherRanksHaveTheirNumberInFront) {
  output_.add(0, "step: 1\n");
  output_.add(2, "warning: slow\nand more\n");
  EXPECT_EQ(screen_, "step: 1\n[rank 2] warning: slow\n[rank 2] and more\n");
}

TEST_F(RankOutputTest, LinesArriveInAnyPieces) {
  for (const char c : std::string("one\ntwo\n")) output_.add(1, std::string(1, c));
  output_.add(1, "three");
  EXPECT_EQ(taken(), "[rank 1] one\n[rank 1] two\n");
  output_.end(1);
  EXPECT_EQ(taken(), "[rank 1] three\n");
  output_.end(1);
  EXPECT_EQ(taken(), "");
}

TEST_F(RankOutputTest, TheLiveLineStaysLast) {
  output_.add(0, "\r\x1b[Kstep 1");
  EXPECT_EQ(taken(), "\r\x1b[Kstep 1");
  output_.add(1, "hello\n");
  EXPECT_EQ(taken(), "\r\x1b[K[rank 1] hello\nstep 1");
  output_.add(0, "\r\x1b[Kstep 2\r\x1b");
  EXPECT_EQ(taken(), "\r\x1b[Kstep 2");
  output_.add(0, "[K");
  EXPECT_EQ(taken(), "\r\x1b[K");
  output_.add(0, "saved\n");
  EXPECT_EQ(taken(), "saved\n");
}

TEST_F(RankOutputTest, ALineOfRankZeroReplacesItsLiveLine) {
  output_.add(0, "\r\x1b[Kstep 1");
  taken();
  output_.add(0, "\r\x1b[Ksaved\n");
  EXPECT_EQ(taken(), "\r\x1b[Ksaved\n");
  output_.add(1, "hello\n");
  EXPECT_EQ(taken(), "[rank 1] hello\n");
}

TEST_F(RankOutputTest, TheLiveLineOfADeadRankIsCleared) {
  output_.add(0, "\r\x1b[Kstep 1");
  taken();
  output_.end(0);
  EXPECT_EQ(taken(), "\r\x1b[K");
}

TEST_F(RankOutputTest, AnErrorIsHeldBackToTheEndOfTheOutput) {
  output_.add(1, "fine\nfurrow: error: no such key\nusage: furrow train\n");
  output_.add(0, "furrow: error: another\n");
  EXPECT_EQ(screen_, "[rank 1] fine\n");
  EXPECT_EQ(output_.error(1), "no such key\nusage: furrow train");
  EXPECT_EQ(output_.error(0), "another");
  EXPECT_EQ(output_.error(2), "");
}

TEST_F(RankOutputTest, FilesHaveEveryLineAlsoFromBeforeWithoutEscapes) {
  output_.add(1, "early\n");
  output_.add(0, "\r\x1b[Klive\r\x1b[K\x1b[36mstep: 1\x1b[0m  loss\n");
  EXPECT_FALSE(output_.stored());
  output_.store_in(folder_ + "/logs");
  EXPECT_TRUE(output_.stored());
  output_.add(1, "late\nfurrow: error: held\n");
  EXPECT_EQ(log(0), "step: 1  loss\n");
  EXPECT_EQ(log(1), "early\nlate\nfurrow: error: held\n");
  EXPECT_EQ(log(2), "");
}

TEST_F(RankOutputTest, AResumedRunGoesOnInItsFiles) {
  output_.store_in(folder_ + "/logs");
  output_.add(1, "first\n");
  RankOutput second(2, [](std::string_view) {});
  second.store_in(folder_ + "/logs");
  second.add(1, "second\n");
  EXPECT_EQ(log(1), "first\nsecond\n");
}

TEST_F(RankOutputTest, AFolderThatCannotBeWrittenIsAWarningOnce) {
  write_file_atomic(folder_ + "/logs", std::string_view("a file"));
  output_.store_in(folder_ + "/logs");
  EXPECT_TRUE(output_.stored());
  EXPECT_EQ(screen_.find("warning: what the ranks print is no longer stored"), 0u) << screen_;
  taken();
  output_.add(1, "goes on\n");
  EXPECT_EQ(taken(), "[rank 1] goes on\n");
}

TEST_F(RankOutputTest, AnEndlessLineIsCut) {
  const std::string half(40'000, 'x');
  output_.add(1, half);
  EXPECT_EQ(taken(), "");
  output_.add(1, half);
  EXPECT_EQ(taken(), "[rank 1] " + half + half + "\n");
}

}  // namespace
}  // namespace furrow::app
