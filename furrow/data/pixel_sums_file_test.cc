// Sums that an interrupted fit leaves: the fitted values of one that was not interrupted, whatever became of
// them.
#include "furrow/data/pixel_sums_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/data/pack.h"
#include "furrow/data/pack_work.h"
#include "furrow/data/records.h"
#include "furrow/data/test_images.h"
#include "furrow/data/test_packs.h"

namespace furrow::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

bool equal(const ChannelSums* found, const ChannelSums& want) {
  const auto same = [](const preprocess::PixelSums& a, const preprocess::PixelSums& b) {
    return a.count == b.count && a.sum == b.sum && a.sum_of_squares == b.sum_of_squares;
  };
  return found != nullptr && std::ranges::equal(*found, want, same);
}

ChannelSums sums_of(uint64_t stretch) { return {{12, stretch, 7}, {12, 5, stretch}}; }

TEST(PixelSumsFile, KeepsWholeRecordsOfTheSameImagesAlone) {
  const TempFolder folder;
  {
    PixelSumsFile file(folder.path(), "a", 5, 2);
    for (const size_t stretch : {3, 0, 4}) file.add(stretch, sums_of(stretch));
    EXPECT_EQ(file.find(3), nullptr) << "what an earlier process left, not this one";
  }
  const auto path = std::filesystem::directory_iterator(folder.path())->path();
  const std::string whole = furrow::read_file(path.string());
  const auto kept = [&](const std::string& bytes) {
    write_file_atomic(path.string(), bytes);
    const PixelSumsFile file(folder.path(), "a", 5, 2);
    size_t count = 0;
    for (size_t stretch = 0; stretch < 5; ++stretch) {
      if (file.find(stretch) == nullptr) continue;
      EXPECT_TRUE(equal(file.find(stretch), sums_of(stretch)));
      ++count;
    }
    return count;
  };
  EXPECT_EQ(kept(whole), 3u);
  constexpr size_t kHead = 16, kRecord = 64;
  ASSERT_EQ(whole.size(), kHead + 3 * kRecord);
  for (size_t at = 0; at < whole.size(); ++at) {
    const size_t before = at < kHead ? 0 : (at - kHead) / kRecord;
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    EXPECT_EQ(kept(damaged), before) << at;
    EXPECT_EQ(furrow::read_file(path.string()), whole.substr(0, kHead + before * kRecord)) << "the rest goes";
    EXPECT_EQ(kept(whole.substr(0, at)), before) << at;
  }
  write_file_atomic(path.string(), whole);
  EXPECT_EQ(PixelSumsFile(folder.path(), "b", 5, 2).find(3), nullptr) << "other images";
  EXPECT_TRUE(equal(PixelSumsFile(folder.path(), "a", 5, 2).find(3), sums_of(3))) << "control";
  EXPECT_EQ(PixelSumsFile(folder.path(), "a", 6, 2).find(3), nullptr) << "cut otherwise";
}

// 40 images of two classes.
DatasetOptions write_set(const TempFolder& folder) {
  constexpr const char* kImages[] = {"rgb.png", "rgb.jpg", "lossy.webp", "grey.jpg"};
  for (int c = 0; c < 2; ++c) std::filesystem::create_directories(folder / fmt::format("set/{}", "ab"[c]));
  for (size_t i = 0; i < 40; ++i)
    folder.write(fmt::format("set/{}/{}.png", "ab"[i % 2], i), testing::sample(kImages[i % 4]));
  DatasetOptions options{
      .kind = "folder", .path = folder / "set", .validation_fraction = 0.1, .seed = 5, .readers = 2};
  options.image_size = 7;
  options.keep_files = true;
  return options;
}

// Of the spool, whose images are not read again: one that has become unreadable behind its back stays unseen.
TEST(PixelSumsFile, AnInterruptedFitGoesOn) {
  const TempFolder folder;
  DatasetOptions options = write_set(folder);
  const Preprocessing want = open_dataset(options).preprocessing;
  options.opening.spool = folder / "kept";
  arm_failpoints("images.before_sums=enospc@20");
  EXPECT_EQ(error_of([&] { open_dataset(options); }).code(), ErrorCode::kResourceExhausted);
  arm_failpoints("images.before_sums=error@20");  // 17 more are to come
  EXPECT_EQ(open_dataset(options).preprocessing, want);
  arm_failpoints("images.before_sums=error");
  EXPECT_EQ(open_dataset(options).preprocessing, want) << "nothing is read again";
  DatasetOptions other = options;
  other.seed = 6;
  EXPECT_EQ(error_of([&] { open_dataset(other); }).code(), ErrorCode::kInternal) << "control: other images";
  other = options;
  other.resize_size = 9;
  EXPECT_EQ(error_of([&] { open_dataset(other); }).code(), ErrorCode::kInternal) << "control: other pixels";
  arm_failpoints("");
}

// The whole way: what is interrupted while it fits, or while shards are written, decodes nothing twice.
TEST(PixelSumsFile, AnInterruptedPackOfFilesDoesNotFitAgain) {
  const TempFolder folder;
  const DatasetOptions options = write_set(folder);
  const auto pack = [&](const std::string& name) {
    PackRequest request{.folder = (folder / name).string(), .kind = "folder", .layout = "encoded"};
    request.fingerprint = fingerprint_of(options);
    request.shard_bytes = 5000;
    return testing::pack_set(options, request);
  };
  pack("whole");
  arm_failpoints("images.before_sums=error@9");
  EXPECT_THROW(pack("pack"), Error);
  arm_failpoints("pack.after_shard=error@3");
  EXPECT_THROW(pack("pack"), Error);
  arm_failpoints("images.before_sums=error");
  EXPECT_GT(pack("pack").kept, 1);
  arm_failpoints("");
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "whole")) {
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(furrow::read_file(entry.path().string()), furrow::read_file((folder / "pack" / name).string()));
    ++files;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "pack"), {}),
            static_cast<long>(files));
  EXPECT_FALSE(path_exists(folder / "pack.partial"));
}

TEST(PixelSumsFile, AnImageThatCannotBeReadIsToldAgain) {
  const TempFolder folder;
  DatasetOptions options = write_set(folder);
  options.validation_fraction = 0;
  folder.write("set/a/broken.png", "no image");
  options.opening.spool = folder / "kept";
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr("set/a/broken.png"));
}

}  // namespace
}  // namespace furrow::data
