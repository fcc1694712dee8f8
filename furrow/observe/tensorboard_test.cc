#include "furrow/observe/tensorboard.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <cstring>
#include <filesystem>

#include "furrow/base/crc32c.h"

namespace furrow::observe {
namespace {

class TensorBoardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/furrow_tensorboard_XXXXXX";
    folder_ = ::mkdtemp(folder);
    clock_.advance_ns(1'700'000'000'000'000'000);
  }
  void TearDown() override { remove_all(folder_); }

  std::vector<std::string> files() const {
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      paths.push_back(entry.path().string());
    std::sort(paths.begin(), paths.end());
    return paths;
  }
  void write(int64_t resumed_step, int64_t last_step, double loss) {
    TensorBoardSink sink(folder_, clock_);
    sink.begin("a", "", resumed_step);
    for (int64_t step = resumed_step + 1; step <= last_step; ++step) {
      sink.log({step, step, {{"loss", loss}, {"lr", 0.5}}});
    }
    sink.end("finished");
  }

  std::string folder_;
  ManualClock clock_;
};

// What the real TensorBoard reads in `folder`, or false when this machine has none.
bool read_with_tensorboard(const std::string& folder, std::string* out) {
  const char* python = std::getenv("FURROW_PYTHON");
  const char* source = std::getenv("FURROW_SOURCE_DIR");
  if (python == nullptr || source == nullptr) return false;
  const std::string command =
      std::string(python) + " " + source + "/furrow/observe/tensorboard_read.py " + folder;
  FILE* pipe = ::popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t read = std::fread(buffer, 1, sizeof(buffer), pipe)) out->append(buffer, read);
  return ::pclose(pipe) == 0;
}

TEST_F(TensorBoardTest, RecordsAreFramedWithMaskedChecksums) {
  const std::string framed = frame_record("abc");
  ASSERT_EQ(framed.size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(framed.substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(framed.substr(12, 3), "abc");
  uint32_t crc = 0;
  std::memcpy(&crc, framed.data() + 15, 4);
  EXPECT_EQ(crc, masked_crc(crc32c("abc")));
}

TEST_F(TensorBoardTest, FileStartsWithItsVersion) {
  write(0, 1, 1.0);
  ASSERT_EQ(files().size(), 1u);
  const std::string bytes = read_file(files()[0]);
  EXPECT_NE(files()[0].find("events.out.tfevents.1700000000."), std::string::npos);
  EXPECT_EQ(bytes.substr(12 + 11, 15),
            "\x1a\x0d"
            "brain.Event:2");
}

TEST_F(TensorBoardTest, AResumedRunsFileSortsAfterTheOlderOneEvenInTheSameSecond) {
  write(0, 4, 1.0);
  write(2, 4, 2.0);
  ASSERT_EQ(files().size(), 2u);
  EXPECT_NE(files()[1].find(".1700000001."), std::string::npos);
}

TEST_F(TensorBoardTest, TheRealTensorBoardReadsIt) {
  write(0, 4, 1.25);
  write(2, 5, 2.5);  // went on from step 2: steps 3 and 4 of the first file are void
  std::string text;
  if (!read_with_tensorboard(folder_, &text)) {
    GTEST_SKIP() << "NOT TESTED: no TensorBoard in FURROW_PYTHON; ./dev setup installs it";
  }
  EXPECT_EQ(text,
            "loss 1 1.25\nloss 2 1.25\nloss 3 2.5\nloss 4 2.5\nloss 5 2.5\n"
            "lr 1 0.5\nlr 2 0.5\nlr 3 0.5\nlr 4 0.5\nlr 5 0.5\n");
}

}  // namespace
}  // namespace furrow::observe
