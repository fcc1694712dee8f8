// One folder, or as many as there are hosts: each rank is a thread with a working folder of its own, where a
// relative path is another one.
#include "furrow/train/shared_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "tests/testing/child.h"
#include "tests/testing/run_ranks.h"

namespace furrow::train {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kRanks = 3;

class SharedFolder : public ::testing::Test {
 protected:
  std::string home(int rank) const { return folder_.path() + "/home" + std::to_string(rank); }
  void SetUp() override {
    for (int r = 0; r < kRanks; ++r) make_directories(home(r));
  }

  // What each rank says of a folder, from a working folder of its own; "" for nothing.
  std::vector<std::string> said_of(const std::string& folder) const {
    std::vector<std::string> said(kRanks);
    testing::run_ranks(kRanks, [&](comm::Communicator& communicator) {
      RankContext rank;
      join(&communicator, plan::Layout({1, kRanks, 1, 1, 1, 1}, kRanks), &rank);
      ASSERT_EQ(::unshare(CLONE_FS), 0);
      ASSERT_EQ(::chdir(home(rank.rank).c_str()), 0);
      try {
        require_shared_folder(rank, folder, "tag");
      } catch (const Error& error) {
        said[static_cast<size_t>(rank.rank)] = error.what();
      }
      communicator.world().barrier();
    });
    return said;
  }

  std::vector<std::string> left() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_.path()))
      if (!entry.is_directory()) files.push_back(entry.path());
    return files;
  }

  testing::TemporaryFolder folder_;
};

TEST_F(SharedFolder, OneForAllIsFineAndStaysAsItIs) {
  make_directories(folder_.path() + "/run");
  EXPECT_THAT(said_of(folder_.path() + "/run/checkpoints"), Each(IsEmpty()));
  EXPECT_FALSE(path_exists(folder_.path() + "/run/checkpoints")) << "made before it is needed";
  EXPECT_THAT(said_of(folder_.path() + "/elsewhere/deep/checkpoints"), Each(IsEmpty()));
  EXPECT_THAT(left(), IsEmpty());
}

TEST_F(SharedFolder, OnesOfTheSameNameAreToldApart) {
  for (int r = 0; r < kRanks; ++r) make_directories(home(r) + "/run");
  EXPECT_THAT(said_of("run/checkpoints"),
              Each(AllOf(HasSubstr("what rank 1 (host "),
                         HasSubstr(" writes into run does not come into that of rank 0"),
                         HasSubstr("a file system that all hosts share"))));
  EXPECT_THAT(left(), IsEmpty());
}

TEST_F(SharedFolder, OneThatIsNotThereIsMissed) {
  make_directories(home(0) + "/run");
  make_directories(home(1) + "/run");
  EXPECT_THAT(said_of("run/checkpoints"),
              Each(AllOf(HasSubstr("cannot create run/.seen-tag-2"), HasSubstr("--job.dump_folder"))));
  EXPECT_THAT(left(), IsEmpty());
}

}  // namespace
}  // namespace furrow::train
