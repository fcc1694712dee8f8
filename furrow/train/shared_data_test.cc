#include "furrow/train/shared_data.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "tests/testing/child.h"
#include "tests/testing/run_ranks.h"

namespace furrow::train {
namespace {

data::DatasetOptions text_options(const std::string& path) {
  return {.kind = "text", .path = path, .context = 4};
}

// Rank 1 would fit another alphabet: the letters of its text are fewer.
TEST(SharedData, OtherRanksTakeWhatRankZeroFits) {
  const testing::TemporaryFolder folder;
  write_file_atomic(folder.path() + "/0", "abcdefgh abcdefgh abcdefgh abcdefgh abcdefgh");
  write_file_atomic(folder.path() + "/1", "abcd abcd abcd abcd abcd abcd abcd abcd abcd");
  std::vector<data::Preprocessing> fitted(2), kept(2);
  testing::run_ranks(2, [&](comm::Communicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    const data::DatasetOptions options = text_options(folder.path() + "/" + std::to_string(rank));
    fitted[rank] = open_shared(&communicator, options, {}).preprocessing;
    data::Preprocessing more = fitted[rank];
    more["alphabet"] += " 233";
    more["classes"] = "10";
    kept[rank] =
        open_shared(&communicator, options, rank == 0 ? std::optional(more) : std::nullopt).preprocessing;
  });
  EXPECT_EQ(fitted[1], fitted[0]);
  EXPECT_EQ(kept[1], kept[0]);
  EXPECT_NE(kept[0], fitted[0]) << "control";
  EXPECT_NE(open_shared(nullptr, text_options(folder.path() + "/1"), {}).preprocessing, fitted[0])
      << "control";
}

// What rank 1, on a host of its own, has in its folder: the same, more of it, and as much of something else.
TEST(SharedData, OtherDataOfARankAreNamed) {
  const testing::TemporaryFolder folder;
  const std::string text = "abcdefgh abcdefgh abcdefgh abcdefgh abcdefgh";
  write_file_atomic(folder.path() + "/0", text);
  const auto said = [&](const std::string& other) {
    write_file_atomic(folder.path() + "/1", other);
    std::vector<std::string> messages(2);
    testing::run_ranks(2, [&](comm::Communicator& communicator) {
      const auto rank = static_cast<size_t>(communicator.rank());
      const data::Dataset dataset = open_shared(
          &communicator, text_options(folder.path() + "/" + std::to_string(rank)), {}, std::to_string(rank));
      try {
        require_same_data(communicator, dataset);
      } catch (const Error& error) {
        messages[rank] = error.what();
      }
    });
    EXPECT_EQ(messages[1], messages[0]);
    return messages[0];
  };
  EXPECT_EQ(said(text), "");
  EXPECT_NE(said(text + " " + text).find("has other data than rank 0 (host"), std::string::npos);
  EXPECT_NE(said(text + " " + text).find("training split: "), std::string::npos);
  EXPECT_NE(said("hgfedcba" + text.substr(8)).find("training sample 0: "), std::string::npos);
}

uint64_t resident_data() { return static_cast<uint64_t>(memory_usage(MemoryKind::kData).current_bytes); }

// What is read lies once on each host, whatever ranks there are; returns its bytes.
uint64_t expect_read_once(const data::DatasetOptions& options) {
  const auto bytes_on = [&](const std::vector<std::string>& hosts) {
    std::vector<data::Dataset> datasets(hosts.size());
    const uint64_t before = resident_data();
    testing::run_ranks(static_cast<int>(hosts.size()), [&](comm::Communicator& communicator) {
      const auto rank = static_cast<size_t>(communicator.rank());
      datasets[rank] = open_shared(&communicator, options, {}, hosts[rank]);
      require_same_data(communicator, datasets[rank]);
    });
    for (const data::Dataset& dataset : datasets) {
      EXPECT_EQ(dataset.preprocessing, datasets[0].preprocessing);
      EXPECT_EQ(dataset.train->size(), datasets[0].train->size());
      EXPECT_EQ(dataset.validation->size(), datasets[0].validation->size());
    }
    return resident_data() - before;
  };
  const uint64_t one = bytes_on({"a", "a"});
  EXPECT_EQ(bytes_on({"a", "a", "a"}), one);
  EXPECT_EQ(bytes_on({"a", "b"}), 2 * one);
  EXPECT_EQ(bytes_on({"a", "b", "a", "b", "b"}), 2 * one);
  EXPECT_EQ(bytes_on({"a", "b", "c"}), 3 * one) << "control";
  return one;
}

TEST(SharedData, ATableIsReadByOneRankOfEachHost) {
  const testing::TemporaryFolder folder;
  std::string text = "a,b,y\n";
  for (int i = 0; i < 3000; ++i)
    text += std::to_string(i % 37) + ".5," + "uvw"[i % 3] + "," + "pq"[i % 2] + "\n";
  write_file_atomic(folder.path() + "/t.csv", text);
  data::DatasetOptions options{.kind = "table", .path = folder.path() + "/t.csv", .validation_fraction = 0.1};
  options.table_rules.target = "y";
  const uint64_t alone = expect_read_once(options);
  EXPECT_GE(alone, 3000u * 3 * 4);
  options.kind = "mixture";
  options.path = folder.path();
  options.mixture = {"one: table weight=1 path=t.csv", "two: table weight=2 path=t.csv"};
  EXPECT_EQ(expect_read_once(options), 2 * alone);
}

TEST(SharedData, ATextIsTokenisedByOneRankOfEachHost) {
  const testing::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += std::to_string(i * i) + " ";
  write_file_atomic(folder.path() + "/t.txt", text);
  data::DatasetOptions options = text_options(folder.path() + "/t.txt");
  options.validation_fraction = 0.1;
  EXPECT_GE(expect_read_once(options), text.size());
}

// What nobody can share each reads for itself: what comes next is no operation that waits for a rank that
// still reads.
TEST(SharedData, AllReturnWhenTheLastHasRead) {
  const testing::TemporaryFolder folder;
  write_file_atomic(folder.path() + "/text", "abcdefgh abcdefgh abcdefgh abcdefgh abcdefgh");
  std::promise<void> first_returns;
  std::future<void> returned = first_returns.get_future();
  std::atomic<bool> early = false, read = false;
  testing::run_ranks(2, [&](comm::Communicator& communicator) {
    data::DatasetOptions options = text_options(folder.path() + "/text");
    options.opening.spool = folder.path() + "/kept" + std::to_string(communicator.rank());
    make_directories(options.opening.spool.string());
    if (communicator.rank() == 1) {
      options.opening.progress = [&](uint64_t, uint64_t) {
        if (read.exchange(true)) return;
        early = returned.wait_for(std::chrono::milliseconds(300)) == std::future_status::ready;
      };
    }
    open_shared(&communicator, options, {});
    if (communicator.rank() == 0) first_returns.set_value();
  });
  EXPECT_TRUE(read);
  EXPECT_FALSE(early) << "rank 0 goes on before rank 1 has read";
}

// On the first host, for all, and on the second one.
TEST(SharedData, ReadingMayTakeLongerThanAnOperation) {
  const testing::TemporaryFolder folder;
  write_file_atomic(folder.path() + "/text", "abcdefgh abcdefgh abcdefgh abcdefgh abcdefgh");
  std::array<std::atomic<bool>, 3> read{};
  const auto train = [&](comm::Communicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    data::DatasetOptions options = text_options(folder.path() + "/text");
    options.opening.progress = [&](uint64_t, uint64_t) {
      if (!read[rank].exchange(true)) std::this_thread::sleep_for(std::chrono::milliseconds(3600));
    };
    open_shared(&communicator, options, {}, rank == 0 ? "a" : "b");
  };
  EXPECT_NO_THROW(testing::run_ranks(3, train, {.timeout_ms = 3000}));
  EXPECT_TRUE(read[0] && read[1]);
  EXPECT_FALSE(read[2]) << "control: it maps what rank 1 has read";
}

// Seconds of it, if it were read to its end.
TEST(SharedData, WhatNobodyWaitsForIsReadNoFurther) {
  const testing::TemporaryFolder folder;
  write_file_atomic(folder.path() + "/text", std::string(100'000, 'a'));
  std::atomic<comm::Communicator*> other = nullptr;
  std::atomic<uint64_t> most = 0, all = 0;
  const auto train = [&](comm::Communicator& communicator) {
    data::DatasetOptions options = text_options(folder.path() + "/text");
    options.tokenizer = "byte";
    options.opening.threads = 1;
    options.opening.part_bytes = 64;
    if (communicator.rank() == 1) other = &communicator;
    options.opening.progress = [&, first = true](uint64_t done, uint64_t total) mutable {
      if (std::exchange(first, false)) other.load()->abort(Error(ErrorCode::kDataLoss, "the disk is gone"));
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      most = done;
      all = total;
    };
    open_shared(&communicator, options, {});
  };
  EXPECT_THROW(testing::run_ranks(2, train), Error);
  EXPECT_GT(most, 0u);
  EXPECT_LT(most, all / 2);
}

TEST(SharedData, AnErrorOfRankZeroIsEverybodys) {
  const testing::TemporaryFolder folder;
  std::vector<std::string> messages(2);
  testing::run_ranks(2, [&](comm::Communicator& communicator) {
    try {
      open_shared(&communicator, text_options(folder.path() + "/none"), {});
    } catch (const Error& error) {
      messages[static_cast<size_t>(communicator.rank())] = error.what();
    }
  });
  for (const std::string& message : messages) EXPECT_NE(message.find("/none"), std::string::npos) << message;
  EXPECT_EQ(messages[1].find("rank 0: "), 0u) << messages[1];
}

}  // namespace
}  // namespace furrow::train
