// One checkpoint by several writers, each with a slice of flat buffers, read by another number of readers.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/storage/boxes.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/test_folder.h"

namespace furrow::storage {
namespace {

using ::testing::HasSubstr;

Array floats(Shape shape, float first) {
  Array array(DType::kF32, std::move(shape));
  std::iota(array.as<float>().begin(), array.as<float>().end(), first);
  return array;
}

ArrayView slice(const Array& array, int64_t begin, int64_t end) {
  return {DType::kF32, {end - begin}, array.bytes().subspan(begin * 4, (end - begin) * 4), {}};
}

// Tensor t of a made-up model, the same for every layout.
struct Tensor {
  std::string name;
  Array array;
};

std::vector<Tensor> tensors(float first) {
  std::vector<Tensor> all;
  for (const Shape& shape : {Shape{7, 5, 3}, Shape{11}, Shape{2, 3}, Shape{1, 4, 1, 6}}) {
    all.push_back({fmt::format("t{}", all.size()), floats(shape, first)});
    first += 1000;
  }
  return all;
}

std::pair<int64_t, int64_t> share(int64_t size, int rank, int ranks) {
  return {size * rank / ranks, size * (rank + 1) / ranks};
}

std::string write_rank(const std::string& working, const std::vector<Tensor>& all, int rank, int ranks) {
  std::vector<CheckpointPiece> pieces;
  for (const Tensor& tensor : all) {
    const auto [begin, end] = share(tensor.array.size(), rank, ranks);
    for (CheckpointPiece& piece :
         pieces_of_range(tensor.name, tensor.array.shape(), begin, slice(tensor.array, begin, end)))
      pieces.push_back(std::move(piece));
  }
  return write_pieces(working, fmt::format("model-rank-{}.safetensors", rank), pieces);
}

void save(const std::string& folder, int64_t step, int ranks) {
  const std::vector<Tensor> all = tensors(static_cast<float>(step));
  CheckpointWriter writer(folder, step, "4711-0");
  for (int rank = ranks; rank-- > 0;)
    writer.adopt(write_rank(make_working_folder(folder, step, "4711-0"), all, rank, ranks));
  writer.commit({});
}

class CheckpointRanks : public ::testing::Test {
 protected:
  ~CheckpointRanks() override { arm_failpoints(""); }
  TestFolder folder_;
  std::string checkpoints_ = folder_ / "checkpoints";
};

TEST_F(CheckpointRanks, AnyNumberOfReadersReadsWhatAnyNumberOfWritersWrote) {
  for (const int writers : {1, 2, 3, 8, 40}) {
    save(checkpoints_, 5, writers);
    const auto reader = newest_valid(checkpoints_);
    ASSERT_TRUE(reader.has_value());
    for (const int readers : {1, 2, 3, 5, 40}) {
      for (const Tensor& tensor : tensors(5)) {
        const Array out(DType::kF32, {tensor.array.size()});
        for (int rank = 0; rank < readers; ++rank) {
          const auto [begin, end] = share(tensor.array.size(), rank, readers);
          reader->read_range(tensor.name, tensor.array.shape(), begin, slice(out, begin, end));
        }
        EXPECT_TRUE(std::ranges::equal(out.bytes(), tensor.array.bytes())) << writers << " to " << readers;
      }
    }
    for (const Tensor& tensor : tensors(5)) {
      const Array out(DType::kF32, tensor.array.shape());
      reader->read(tensor.name, out.view());
      EXPECT_TRUE(std::ranges::equal(out.bytes(), tensor.array.bytes()));
    }
  }
}

TEST_F(CheckpointRanks, AReaderOfARangeChecksOnlyWhatItReads) {
  save(checkpoints_, 1, 4);
  const std::string damaged = checkpoints_ + "/step-00000001/model-rank-3.safetensors";
  std::string bytes = read_file(damaged);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file_atomic(damaged, bytes);
  const CheckpointReader reader = CheckpointReader::open(checkpoints_ + "/step-00000001");
  const Array out(DType::kF32, {24});
  EXPECT_NO_THROW(reader.read_range("t3", {1, 4, 1, 6}, 0, slice(out, 0, 18)));
  EXPECT_THROW(reader.read_range("t3", {1, 4, 1, 6}, 0, slice(out, 0, 19)), Error);
}

TEST_F(CheckpointRanks, ARankThatDidNotWriteLeavesNoCommit) {
  save(checkpoints_, 1, 3);
  const std::vector<Tensor> all = tensors(2);
  {
    CheckpointWriter writer(checkpoints_, 2);
    for (const int rank : {0, 2}) writer.adopt(write_rank(writer.working_folder(), all, rank, 3));
    try {
      writer.commit({});
      FAIL() << "committed without rank 1";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      EXPECT_THAT(error.what(), HasSubstr("tensor 't0': pieces cover"));
    }
  }
  EXPECT_FALSE(path_exists(checkpoints_ + "/step-00000002"));
  EXPECT_EQ(newest_valid(checkpoints_)->manifest().step, 1);
}

// Whatever a job that was killed has left, even between the commit record and the folder's name.
TEST_F(CheckpointRanks, WhatAnotherSaveLeftDoesNotCountAndGoes) {
  const std::string left = make_working_folder(checkpoints_, 2, "815-0");
  write_rank(left, tensors(1), 0, 1);
  save(checkpoints_, 7, 1);
  rename_durably(checkpoints_ + "/step-00000007", checkpoints_ + "/step-00000007.815-1");
  EXPECT_FALSE(newest_valid(checkpoints_).has_value());
  save(checkpoints_, 2, 3);
  EXPECT_EQ(newest_valid(checkpoints_)->manifest().step, 2);
  prune(checkpoints_, 1);
  EXPECT_FALSE(path_exists(left));
  EXPECT_FALSE(path_exists(checkpoints_ + "/step-00000007.815-1"));
  EXPECT_EQ(newest_valid(checkpoints_)->manifest().step, 2);
}

TEST_F(CheckpointRanks, ARankThatWritesTwiceLeavesNoCommit) {
  const std::vector<Tensor> all = tensors(2);
  CheckpointWriter writer(checkpoints_, 2);
  const std::string list = write_rank(writer.working_folder(), all, 0, 1);
  writer.adopt(list);
  writer.adopt(list);
  EXPECT_THROW(writer.commit({}), Error);
}

TEST_F(CheckpointRanks, ListsThatContradictAreRefused) {
  CheckpointWriter writer(checkpoints_, 2);
  const Array a = floats({4}, 0), b = floats({5}, 0);
  writer.write("a.safetensors", std::vector<NamedArray>{{"t", a.view()}});
  const std::vector<NamedArray> other = {{"t", b.view()}};
  EXPECT_THROW(writer.write("b.safetensors", other), Error);
  for (const char* text : {"", "{}", "[]", R"({"tensors":[{}]})",
                           R"({"tensors":[{"name":"t","dtype":"float32",)"
                           R"("shape":[2],"pieces":[{"file":"../x"}]}]})"}) {
    EXPECT_THROW(writer.adopt(text), Error) << text;
  }
}

// An error of a rank at any point: the last checkpoint stays, the new one does not count.
TEST_F(CheckpointRanks, AnErrorAtAnyFailpointOfAnyRankLeavesTheLastOne) {
  for (const std::string& point : checkpoint_failpoints()) {
    for (int pass = 1; pass <= 3; ++pass) {
      remove_all(checkpoints_);
      save(checkpoints_, 1, 3);
      arm_failpoints(point + "=error@" + std::to_string(pass));
      bool failed = false;
      try {
        save(checkpoints_, 2, 3);
      } catch (const Error&) {
        failed = true;
      }
      arm_failpoints("");
      const bool committed = !failed || point == "checkpoint.after_commit";
      EXPECT_EQ(newest_valid(checkpoints_)->manifest().step, committed ? 2 : 1) << point << " @" << pass;
    }
  }
}

}  // namespace
}  // namespace furrow::storage
