// Packs: whatever a data set gives, its pack gives too, bit for bit, mapped or streamed; interrupted writers
// leave what the next one keeps.
#include "furrow/data/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/records.h"
#include "furrow/data/test_files.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

using ::testing::AllOf;
using testing::bytes_of_batches;
using testing::ByteVector;
using testing::error_of;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

// One data set of each layout.
struct Case {
  std::string name;
  DatasetOptions options;
};

std::vector<Case> cases(const TempFolder& folder) {
  std::vector<Case> all;
  std::filesystem::create_directories(folder / "idx");
  testing::write_images(folder, "idx/train", 300);
  testing::write_images(folder, "idx/t10k", 40);
  all.push_back({"images", {.kind = "idx", .path = folder / "idx", .validation_fraction = 0.2, .seed = 3}});
  all.back().options.augmentation = {1, true};
  all.back().options.context = 16;  // of no use to images
  std::string text;
  for (int i = 0; i < 5000; ++i) text.push_back(static_cast<char>('a' + i * i % 23));
  DatasetOptions tokens{.kind = "text", .path = folder.write("t.txt", text), .context = 16};
  tokens.validation_fraction = 0.1;
  tokens.test_fraction = 0.1;
  all.push_back({"tokens", tokens});
  DatasetOptions documents = tokens;
  documents.document_separator = "a";
  all.push_back({"documents", documents});
  return all;
}

PackRequest request_of(const TempFolder& folder, const Case& set) {
  return {.folder = (folder / (set.name + ".pack")).string(), .kind = set.options.kind, .threads = 3};
}

DatasetOptions pack_options(const TempFolder& folder, const Case& set, uint64_t budget = 0, int readers = 0) {
  DatasetOptions options = set.options;
  options.kind = "pack";
  options.path = folder / (set.name + ".pack");
  options.memory_budget = budget;
  options.readers = readers;
  return options;
}

TEST(Packs, GiveWhatTheirDataSetGives) {
  const TempFolder folder;
  for (const Case& set : cases(folder)) {
    SCOPED_TRACE(set.name);
    const Dataset plain = open_dataset(set.options);
    PackRequest request = request_of(folder, set);
    request.shard_bytes = 1000;  // many shards, windows and pieces across their borders
    const PackSummary summary = write_pack(plain, request);
    EXPECT_GT(summary.shards, 3);
    EXPECT_EQ(summary.kept, 0);
    EXPECT_EQ(storage::read_pack(request.folder).layout, set.name);
    if (set.name != kTokenRecords) {
      DatasetOptions cut = pack_options(folder, set);
      cut.disjoint_windows = true;
      EXPECT_THROW(open_dataset(cut), Error) << "nothing to cut";
    }
    EXPECT_FALSE(path_exists(request.folder + ".partial"));
    for (const auto& [budget, readers] :
         {std::pair<uint64_t, int>{0, 0}, {1, 0}, {1, 1}, {0, 3}, {1 << 30, 2}}) {
      const DatasetOptions options = pack_options(folder, set, budget, readers);
      const Dataset packed = open_dataset(options);
      EXPECT_EQ(packed.preprocessing, plain.preprocessing);
      for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
        const Source &a = *find_split(plain, split), &b = *find_split(packed, split);
        ASSERT_EQ(a.size(), b.size());
        EXPECT_EQ(a.fields(), b.fields());
        EXPECT_EQ(a.classes(), b.classes());
        EXPECT_EQ(bytes_of_batches(a, 3 * a.size()), bytes_of_batches(b, 3 * b.size()))
            << budget << " " << readers;
      }
      const DataInfo info = probe(options);
      EXPECT_EQ(info.fields, plain.train->fields());
      EXPECT_EQ(info.classes, plain.train->classes());
      EXPECT_EQ(info.train_samples, plain.train->size());
    }
  }
}

TEST(Packs, OfATextAreCutAnewInEachEpochAsTheTextIs) {
  const TempFolder folder;
  Case set = cases(folder)[1];
  set.options.seed = 5;
  write_pack(open_dataset(set.options), request_of(folder, set));  // however it is cut
  set.options.disjoint_windows = true;
  const Dataset plain = open_dataset(set.options);
  const int64_t size = plain.train->size();
  ASSERT_EQ(size, (4000 - 16) / 16);
  const ByteVector expected = bytes_of_batches(*plain.train, 4 * size);
  for (const auto& [budget, readers] : {std::pair<uint64_t, int>{0, 0}, {1, 0}, {1, 1}, {0, 3}}) {
    const DatasetOptions options = pack_options(folder, set, budget, readers);
    const Dataset packed = open_dataset(options);
    ASSERT_EQ(packed.train->size(), size);
    EXPECT_EQ(probe(options).train_samples, size);
    EXPECT_EQ(bytes_of_batches(*packed.train, 4 * size), expected) << budget << " " << readers;
  }
  set.options.seed = 6;
  EXPECT_NE(bytes_of_batches(*open_dataset(pack_options(folder, set)).train, 4 * size), expected)
      << "control";
}

TEST(Packs, OfAPackIsTheSamePack) {
  const TempFolder folder;
  for (const Case& set : cases(folder)) {
    const PackRequest request = request_of(folder, set);
    write_pack(open_dataset(set.options), request);
    PackRequest again = request;
    again.folder += "-2";
    write_pack(open_dataset(pack_options(folder, set)), again);
    EXPECT_EQ(read_file(request.folder + "/pack.json"), read_file(again.folder + "/pack.json"));
    EXPECT_EQ(read_file(request.folder + "/train-00000.shard"),
              read_file(again.folder + "/train-00000.shard"));
  }
}

TEST(Packs, DoNotDependOnThreadsOrInterruptions) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  const Dataset plain = open_dataset(set.options);
  PackRequest request = request_of(folder, set);
  request.shard_bytes = 400;
  request.threads = 1;
  const PackSummary whole = write_pack(plain, request);
  const std::string manifest = read_file(request.folder + "/pack.json");
  PackRequest second = request;
  second.folder += "-2";
  second.threads = 4;
  const std::string partial = second.folder + ".partial";
  for (const char* place : {"pack.before_shard", "pack.after_shard", "file.before_rename",
                            "pack.before_manifest", "pack.before_rename"}) {
    SCOPED_TRACE(place);
    arm_failpoints(std::string(place) +
                   (std::string(place).starts_with("pack.before_m") ? "=error" : "=error@4"));
    if (std::string(place) == "pack.before_rename") arm_failpoints("pack.before_rename=enospc");
    EXPECT_THROW(write_pack(plain, second), Error);
    arm_failpoints("");
    EXPECT_FALSE(path_exists(second.folder));
    EXPECT_TRUE(path_exists(partial));
    folder.write("idx.pack-2.partial/train-00001.shard.tmp-1-1", "left by a kill");
    const PackSummary summary = write_pack(plain, second);
    EXPECT_GT(summary.kept, 0);
    EXPECT_EQ(summary.shards, whole.shards);
    EXPECT_EQ(read_file(second.folder + "/pack.json"), manifest);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(second.folder), {}), whole.shards + 1);
    EXPECT_FALSE(path_exists(partial));
    remove_all(second.folder);
  }
}

TEST(Packs, WhatOtherDataLeftIsNotKept) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  PackRequest request = request_of(folder, set);
  request.shard_bytes = 400;
  request.fingerprint = "a";
  arm_failpoints("pack.before_manifest=error");
  EXPECT_THROW(write_pack(open_dataset(set.options), request), Error);
  arm_failpoints("");
  request.fingerprint = "b";
  EXPECT_EQ(write_pack(open_dataset(set.options), request).kept, 0);
}

TEST(Packs, ADamagedLeftoverIsWrittenAgain) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  PackRequest request = request_of(folder, set);
  request.shard_bytes = 400;
  arm_failpoints("pack.before_manifest=error");
  EXPECT_THROW(write_pack(open_dataset(set.options), request), Error);
  arm_failpoints("");
  folder.write("images.pack.partial/train-00002.shard", "cut short");
  const PackSummary summary = write_pack(open_dataset(set.options), request);
  EXPECT_EQ(summary.kept, summary.shards - 1);
  open_dataset(pack_options(folder, set));
}

TEST(Packs, AreCancelledBetweenPieces) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  PackRequest request = request_of(folder, set);
  request.threads = 1;
  request.shard_bytes = 400;
  CancelToken cancel;
  request.cancel = &cancel;
  uint64_t seen = 0, all = 0;
  request.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, seen);
    seen = done;
    all = total;
    if (done * 2 > total) cancel.cancel();
  };
  const Dataset plain = open_dataset(set.options);
  const Error error = error_of([&] { write_pack(plain, request); });
  EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  EXPECT_THAT(error.what(), HasSubstr(".partial keeps what is done"));
  EXPECT_LT(seen, all);
  request.cancel = nullptr;
  seen = 0;
  EXPECT_GT(write_pack(plain, request).kept, 5);
  EXPECT_EQ(seen, all);
  EXPECT_EQ(error_of([&] { write_pack(plain, request); }).code(), ErrorCode::kAlreadyExists);
}

TEST(Packs, DamageIsNamedAndNeverRead) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  const PackRequest request = request_of(folder, set);
  write_pack(open_dataset(set.options), request);
  const std::string path = request.folder + "/train-00000.shard";
  std::string bytes = read_file(path);
  bytes[1000] ^= 4;
  write_file_atomic(path, bytes);
  for (const uint64_t budget : {0, 1}) {
    const Dataset packed = open_dataset(pack_options(folder, set, budget));
    const Error error = error_of([&] { bytes_of_batches(*packed.train, 100); });
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_THAT(error.what(), HasSubstr("train-00000.shard"));
  }
  write_file_atomic(path, bytes.substr(0, bytes.size() - 1));
  const Error cut = error_of([&] { open_dataset(pack_options(folder, set)); });
  EXPECT_EQ(cut.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(cut.what(), HasSubstr("train-00000.shard"));
  EXPECT_EQ(error_of([&] { open_dataset({.kind = "pack", .path = folder.path()}); }).code(),
            ErrorCode::kNotFound);
}

TEST(Packs, ManifestsThatMakeNoSenseAreRefused) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  const PackRequest request = request_of(folder, set);
  write_pack(open_dataset(set.options), request);
  const storage::PackInfo good = storage::read_pack(request.folder);
  const auto refused = [&](const auto& change, const std::string& part) {
    storage::PackInfo info = good;
    change(info);
    storage::write_pack(request.folder, info);
    EXPECT_THAT(error_of([&] { open_dataset(pack_options(folder, set)); }).what(), HasSubstr(part));
  };
  refused([](auto& info) { info.layout = "imges"; }, "did you mean 'images'");
  refused([](auto& info) { info.layout = "tokens"; }, "other fields");
  refused([](auto& info) { info.fields[0].shape = {13}; }, "no shape [c, h, w]");
  refused([](auto& info) { info.splits[0].name = "rest"; }, "no split 'train'");
  refused([](auto& info) { info.preprocessing.erase("classes"); }, "'classes'");
  refused([](auto& info) { info.fields[0].shape = {1, 4, 4}; }, "belongs to another pack");
}

// Any source without a compact form of its own is stored as it reads.
class PlainSource : public Source {
 public:
  int64_t size() const override { return 500; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 4; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    check_read(*this, indices, views);
    for (size_t row = 0; row < indices.size(); ++row) {
      for (size_t k = 0; k < 3; ++k) {
        views[0].as<float>()[row * 3 + k] = static_cast<float>(indices[row]) + 0.5f * static_cast<float>(k);
      }
      views[1].as<int64_t>()[row] = indices[row] % 4;
    }
  }

 private:
  std::vector<Field> fields_{{"input", DType::kF32, {3}}, {"target", DType::kI64, {}}};
};

TEST(Packs, HoldSamplesOfAnySource) {
  const TempFolder folder;
  Dataset plain;
  plain.train = std::make_unique<PlainSource>();
  plain.preprocessing = {{"classes", "4"}};
  const Case set{"samples", {}};
  PackRequest request = request_of(folder, set);
  request.shard_bytes = 777;
  write_pack(plain, request);
  for (const uint64_t budget : {0, 1}) {
    const Dataset packed = open_dataset(pack_options(folder, set, budget));
    EXPECT_EQ(packed.validation, nullptr);
    EXPECT_EQ(packed.train->classes(), 4);
    EXPECT_EQ(bytes_of_batches(*packed.train, 1200), bytes_of_batches(*plain.train, 1200));
  }
}

TEST(ReaderPool, RunsEachPieceOnceAndCarriesTheFirstError) {
  for (const int readers : {1, 2, 5}) {
    ReaderPool pool(readers);
    EXPECT_EQ(pool.readers(), readers);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(round % 20));
      pool.run(seen.size(), [&](size_t piece) { ++seen[piece]; });
      for (const auto& count : seen) ASSERT_EQ(count, 1);
    }
    const Error error = error_of([&] {
      pool.run(10, [](size_t piece) {
        if (piece >= 3) throw Error(ErrorCode::kDataLoss, "piece " + std::to_string(piece));
      });
    });
    EXPECT_EQ(error.message(), "piece 3");
  }
}

// Work that took long is shared from its start: two pieces that wait for each other both get a thread.
TEST(ReaderPool, WakesItsThreadsForLongWork) {
  ReaderPool pool(2);
  const auto now = [] { return system_clock().monotonic_ns(); };
  pool.run(2, [&](size_t) {
    for (const int64_t begin = now(); now() - begin < ReaderPool::kWorthWakingNs;) continue;
  });
  std::atomic<int> met{0};
  pool.run(2, [&](size_t) {
    ++met;
    for (const int64_t begin = now(); met < 2 && now() - begin < 10'000'000'000;) std::this_thread::yield();
    EXPECT_EQ(met, 2);
  });
}

TEST(ReaderPool, ServesSeveralCallers) {
  ReaderPool pool(3);
  std::atomic<int> done{0};
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([&] {
        for (int round = 0; round < 100; ++round) pool.run(7, [&](size_t) { ++done; });
      });
    }
  }
  EXPECT_EQ(done, 4 * 100 * 7);
}

// While the pool serves one caller, another does its work alone: it does not wait.
TEST(ReaderPool, KeepsNoOtherCallerWaiting) {
  ReaderPool pool(2);
  const auto now = [] { return system_clock().monotonic_ns(); };
  std::atomic<int> done{0};
  std::jthread other;
  pool.run(1, [&](size_t) {
    other = std::jthread([&] { pool.run(3, [&](size_t) { ++done; }); });
    for (const int64_t begin = now(); done < 3 && now() - begin < 10'000'000'000;) std::this_thread::yield();
    EXPECT_EQ(done, 3);
  });
}

enum class Pace { kFast, kBusy, kWaiting };

// Rows that take a while, or none; counts the pieces that a batch was read in.
class PacedSource : public Source {
 public:
  int64_t size() const override { return 100; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 2; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    ++pieces;
    const auto took = std::chrono::nanoseconds(pace == Pace::kFast ? 0 : ParallelSource::kLeastPieceNs) *
                      static_cast<int64_t>(indices.size());
    const auto end = std::chrono::steady_clock::now() + took;
    if (pace == Pace::kWaiting) std::this_thread::sleep_until(end);
    while (std::chrono::steady_clock::now() < end) continue;
    std::ranges::copy(indices, views[0].as<int64_t>().begin());
  }
  mutable std::atomic<int> pieces = 0;
  std::atomic<Pace> pace = Pace::kBusy;

 private:
  std::vector<Field> fields_ = {{"row", DType::kI64, {}}};
};

// A batch of a PacedSource at different paces, read by two.
class ParallelSourceTest : public ::testing::Test {
 protected:
  // How many pieces the next batch was read in.
  int pieces(Pace pace) {
    paced_->pieces = 0;
    paced_->pace = pace;
    source_->read(indices_, std::vector<ArrayView>{out_.view()});
    EXPECT_TRUE(std::ranges::equal(out_.as<int64_t>(), indices_));
    return paced_->pieces.load();
  }
  // Where others have the core, a row may take long once more, and a thread may wait for it.
  bool comes_to_one_piece(Pace pace) {
    for (int round = 0; round < 1000; ++round) {
      if (pieces(pace) == 1) return true;
    }
    return false;
  }
  void open(RowCost cost) {
    auto owned = std::make_unique<PacedSource>();
    paced_ = owned.get();
    source_ = std::make_unique<ParallelSource>(std::move(owned), std::make_shared<ReaderPool>(2), cost);
    std::iota(indices_.begin(), indices_.end(), 40);
  }

 private:
  PacedSource* paced_ = nullptr;
  std::unique_ptr<ParallelSource> source_;
  Array out_{DType::kI64, {16}};
  std::vector<int64_t> indices_ = std::vector<int64_t>(16);
};
TEST_F(ParallelSourceTest, CutsABatchIntoPiecesThatAreWorthIt) {
  open(RowCost::kWork);
  EXPECT_EQ(pieces(Pace::kBusy), 8) << "nothing is known yet";
  EXPECT_EQ(pieces(Pace::kBusy), 8);
  EXPECT_TRUE(comes_to_one_piece(Pace::kFast));
  pieces(Pace::kBusy);
  EXPECT_EQ(pieces(Pace::kBusy), 8);
}

TEST_F(ParallelSourceTest, SharesWaitsForADiskAndNotTheCopyingOfWhatIsInMemory) {
  open(RowCost::kWaits);
  EXPECT_EQ(pieces(Pace::kWaiting), 8) << "nothing is known yet";
  EXPECT_EQ(pieces(Pace::kWaiting), 8);
  EXPECT_TRUE(comes_to_one_piece(Pace::kBusy));
  pieces(Pace::kWaiting);
  EXPECT_EQ(pieces(Pace::kWaiting), 8);
}

TEST(GuessKind, KnowsWhatASetLooksLike) {
  const TempFolder folder;
  const std::vector<Case> all = cases(folder);
  EXPECT_EQ(guess_kind(all[0].options.path), "idx");
  EXPECT_EQ(guess_kind(all[1].options.path), "text");
  write_pack(open_dataset(all[1].options), request_of(folder, all[1]));
  EXPECT_EQ(guess_kind(folder / "tokens.pack"), "pack");
  EXPECT_EQ(error_of([&] { guess_kind(folder / "none"); }).code(), ErrorCode::kNotFound);
  EXPECT_THAT(error_of([&] { guess_kind(folder.write("x.bin", "x")); }).what(),
              HasSubstr("cannot tell what kind of data"));
  std::filesystem::create_directories(folder / "flat");
  folder.write("flat/1.webp", "x");
  EXPECT_THAT(
      error_of([&] { guess_kind(folder / "flat"); }).what(),
      AllOf(HasSubstr("cannot tell what kind of data"),
            HasSubstr("such as 1.webp, but an image folder (docs/datasets.md) has one folder per class")));
}

}  // namespace
}  // namespace furrow::data
