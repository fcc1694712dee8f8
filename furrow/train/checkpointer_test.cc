// What a save behind training leaves to the thread that trains: copies of the state and nothing else.
// Counted, not timed (save_bench.cc times it).
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/train/checkpointer_torch.h"
#include "tests/testing/child.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/saving_torch.h"

namespace furrow::train {
namespace {

// What the calling thread has written to files so far, calls and blocks.
struct Written {
  int64_t calls = 0, bytes = 0, blocks = 0;
  friend bool operator==(const Written&, const Written&) = default;
};

Written written() {
  Written written;
  std::ifstream io("/proc/thread-self/io");
  std::string key;
  for (int64_t value = 0; io >> key >> value;) {
    if (key == "syscw:") written.calls = value;
    if (key == "wchar:") written.bytes = value;
  }
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  written.blocks = usage.ru_oublock;
  return written;
}

int64_t snapshots() { return memory_usage(MemoryKind::kCheckpoint).current_bytes; }

TEST(SaveBehindTraining, OnlyCopiesInTheThreadThatTrains) {
  if (!path_exists("/proc/thread-self/io"))
    GTEST_SKIP() << "this kernel does not count a thread's input and output";
  tensor::install_counting_allocator();
  testing::Saving saving(/*units=*/3, /*width=*/96);
  const int64_t held = snapshots();
  for (int64_t step = 1; step <= 3; ++step) {
    saving.checkpointer->finish();
    reset_memory_peaks();
    const Written before = written();
    saving.save(step);
    EXPECT_EQ(written(), before) << "the thread that trains wrote";
    EXPECT_EQ(memory_usage(MemoryKind::kCheckpoint).peak_bytes, held + static_cast<int64_t>(saving.bytes))
        << "each byte of the state is copied once";
  }
  saving.checkpointer->finish();
  EXPECT_EQ(snapshots(), held);
  EXPECT_TRUE(path_exists(saving.folder + "/" + storage::step_folder_name(3)));
}

// The first save finds memory that was written before, as the later ones do.
TEST(SaveBehindTraining, TheFirstSaveAsksForNoNewMemory) {
  tensor::install_counting_allocator();
  const auto misses_of_first_save = [](bool prepared) {
    tensor::release_cached_memory();
    testing::Saving saving(/*units=*/2, /*width=*/96);
    if (prepared) saving.checkpointer->prepare(*saving.model);
    saving.checkpointer->finish();
    const int64_t before = tensor::allocator_stats().misses;
    saving.save(1);
    saving.checkpointer->finish();
    return tensor::allocator_stats().misses - before;
  };
  EXPECT_GT(misses_of_first_save(false), 0);
#if !defined(__SANITIZE_ADDRESS__)  // which reuses nothing
  EXPECT_EQ(misses_of_first_save(true), 0);
#endif
}

void run_data_ranks(const std::function<void(const RankContext&)>& body) {
  constexpr int kRanks = 2;
  testing::run_ranks(kRanks, [&](comm::Communicator& communicator) {
    RankContext rank;
    join(&communicator, plan::Layout({1, kRanks, 1, 1, 1, 1}, kRanks), &rank);
    body(rank);
  });
}

// Of two ranks with two files each the last to write takes longer than an operation may.
TEST(Save, MayTakeLongerThanAnOperation) {
  for (const std::string mode : {"disabled", "async"}) {
    const testing::TemporaryFolder folder;
    arm_failpoints("checkpoint.before_piece=delay:4500@4");
    const auto train = [&](comm::Communicator& communicator) {
      RankContext rank;
      join(&communicator, plan::Layout({1, 2, 1, 1, 1, 1}, 2), &rank);
      testing::Saving saving(/*units=*/2, /*width=*/16, mode, &rank, folder.path());
      saving.save(1);
      saving.checkpointer->finish();
    };
    EXPECT_NO_THROW(testing::run_ranks(2, train, {.timeout_ms = 3000})) << mode;
    arm_failpoints("");
    EXPECT_TRUE(path_exists(folder.path() + "/" + storage::step_folder_name(1))) << mode;
  }
}

// Several ranks agree on nothing that a disk would have to be asked for.
TEST(SaveBehindTraining, RanksOnlyCopyInTheThreadsThatTrain) {
  if (!path_exists("/proc/thread-self/io"))
    GTEST_SKIP() << "this kernel does not count a thread's input and output";
  const testing::TemporaryFolder folder;
  run_data_ranks([&](const RankContext& rank) {
    testing::Saving saving(/*units=*/3, /*width=*/96, "async", &rank, folder.path());
    for (int64_t step = 1; step <= 3; ++step) {
      saving.checkpointer->finish();
      const Written before = written();
      saving.save(step);
      EXPECT_EQ(written(), before) << "rank " << rank.rank << " wrote in the thread that trains";
    }
    saving.checkpointer->finish();
  });
  const auto entries = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << "only the last checkpoint is kept";
  storage::CheckpointReader::open(folder.path() + "/" + storage::step_folder_name(3)).verify();
}

TEST(SaveBehindTraining, RanksMakeTheirFolderBehindTrainingToo) {
  const testing::TemporaryFolder folder;
  arm_failpoints("checkpoint.begin=error");
  run_data_ranks([&](const RankContext& rank) {
    testing::Saving saving(/*units=*/2, /*width=*/16, "async", &rank, folder.path());
    EXPECT_NO_THROW(saving.save(1));
    EXPECT_THROW(saving.checkpointer->finish(), Error);
    rank.world().barrier();
    arm_failpoints("");
    rank.world().barrier();
    saving.save(2);
    saving.checkpointer->finish();
  });
  EXPECT_TRUE(path_exists(folder.path() + "/" + storage::step_folder_name(2)));
}

// The folder too is made elsewhere: that it cannot be is heard of at the next save, with the step.
TEST(SaveBehindTraining, TheFolderIsMadeBehindTrainingToo) {
  testing::Saving saving(/*units=*/2, /*width=*/16);
  arm_failpoints("checkpoint.begin=error");
  EXPECT_NO_THROW(saving.save(1));
  try {
    saving.checkpointer->finish();
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("saving step 1"), std::string::npos) << error.what();
  }
  arm_failpoints("");
  saving.save(2);
  saving.checkpointer->finish();
  EXPECT_TRUE(path_exists(saving.folder + "/" + storage::step_folder_name(2)));
}

// The control: a save in the foreground copies nothing and writes all of it.
TEST(SaveBehindTraining, AForegroundSaveWritesInTheThreadThatTrains) {
  if (!path_exists("/proc/thread-self/io"))
    GTEST_SKIP() << "this kernel does not count a thread's input and output";
  testing::Saving saving(/*units=*/3, /*width=*/96, "disabled");
  const int64_t held = snapshots();
  reset_memory_peaks();
  const Written before = written();
  saving.save(1);
  constexpr int64_t kNumbers = 3;  // a parameter and two states, without the padding of flat buffers
  EXPECT_GT(written().bytes, before.bytes + kNumbers * 4 * saving.spec.parameter_count());
  EXPECT_EQ(memory_usage(MemoryKind::kCheckpoint).peak_bytes, held);
}

}  // namespace
}  // namespace furrow::train
