// Packs of image files: whatever a folder gives, random regions too, its pack gives, bit for bit.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/data/encoded_index.h"
#include "furrow/data/image_files.h"
#include "furrow/data/pack.h"
#include "furrow/data/records.h"
#include "furrow/data/test_images.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

using testing::ByteVector;
using testing::error_of;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::sample;
using testing::TempFolder;

constexpr const char* kImages[] = {"rgb.png",  "rgb.jpg",  "lossy.webp", "grey.jpg",   "progressive.jpg",
                                   "cmyk.jpg", "grey.png", "alpha.png",  "sixteen.png"};

void put(const TempFolder& folder, const std::string& place, size_t image) {
  std::filesystem::create_directories((folder / place).parent_path());
  folder.write(place, sample(kImages[image % std::size(kImages)]));
}

// 18 images of three classes to train on, others to validate and to test.
DatasetOptions write_folder(const TempFolder& folder) {
  for (size_t i = 0; i < 18; ++i) put(folder, fmt::format("set/train/{}/{}.png", "abc"[i % 3], i), i);
  for (size_t i = 0; i < 5; ++i) {
    put(folder, fmt::format("set/val/{}/{}.png", "abc"[i % 2], i), i + 2);
    put(folder, fmt::format("set/test/{}/{}.png", "bc"[i % 2], i), i + 4);
  }
  DatasetOptions options{.kind = "folder", .path = folder / "set", .seed = 5, .readers = 2, .image_size = 7};
  options.resize_size = 9;
  options.augmentation.flip = options.augmentation.resized_crop = true;
  options.keep_files = true;
  return options;
}

DatasetOptions packed(DatasetOptions options, const TempFolder& folder, uint64_t budget = 0,
                      int readers = 0) {
  options.kind = "pack";
  options.path = folder / "pack";
  options.keep_files = false;
  options.memory_budget = budget;
  options.readers = readers;
  return options;
}

PackRequest request_of(const TempFolder& folder) {
  return {.folder = (folder / "pack").string(), .kind = "folder", .threads = 3, .shard_bytes = 1000};
}

ByteVector stream(const Source& source) {
  return testing::bytes_of_batches(source, 3 * source.size(), /*shuffle=*/true, /*begin=*/0);
}

TEST(EncodedPacks, GiveTheBitsOfTheirFolder) {
  const TempFolder folder;
  const DatasetOptions options = write_folder(folder);
  const Dataset plain = open_dataset(options);
  EXPECT_GT(write_pack(plain, request_of(folder)).shards, 10);
  const storage::PackInfo info = storage::read_pack((folder / "pack").string());
  EXPECT_EQ(info.layout, kEncodedRecords);
  EXPECT_EQ(info.find("train.ends")->records(), 18);
  for (const auto& [budget, readers] : {std::pair<uint64_t, int>{0, 0}, {1, 1}, {1 << 30, 3}}) {
    const DatasetOptions from_pack = packed(options, folder, budget, readers);
    const Dataset dataset = open_dataset(from_pack);
    EXPECT_EQ(dataset.preprocessing, plain.preprocessing);
    for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
      const Source &a = *find_split(plain, split), &b = *find_split(dataset, split);
      ASSERT_EQ(a.size(), b.size());
      EXPECT_EQ(a.fields(), b.fields());
      EXPECT_EQ(a.classes(), b.classes());
      EXPECT_EQ(stream(a), stream(b)) << budget << " " << readers;
    }
    const DataInfo probed = probe(from_pack);
    EXPECT_EQ(probed.fields, plain.train->fields());
    EXPECT_EQ(probed.classes, 3);
    EXPECT_EQ(probed.train_samples, 18);
  }
  DatasetOptions other = packed(options, folder);
  other.seed = 6;
  EXPECT_NE(stream(*open_dataset(other).train), stream(*plain.train)) << "control: another seed";
  other = packed(options, folder);
  other.augmentation.most_scale = 0.9;
  EXPECT_NE(stream(*open_dataset(other).train), stream(*plain.train)) << "control: other regions";
  other.augmentation = {};
  EXPECT_NE(stream(*open_dataset(other).train), stream(*plain.train)) << "control: no regions";
}

TEST(EncodedPacks, AreReadInTheSizesThatAreAskedFor) {
  const TempFolder folder;
  DatasetOptions options = write_folder(folder);
  const Dataset fitted = open_dataset(options);
  write_pack(fitted, request_of(folder));
  DatasetOptions unsaid = packed(options, folder);
  unsaid.image_size = unsaid.resize_size = 0;
  EXPECT_EQ(stream(*open_dataset(unsaid).train), stream(*fitted.train)) << "as they were packed";
  options.image_size = 6;
  options.resize_size = 0;
  const Dataset plain = open_dataset(options, &fitted.preprocessing);
  const Dataset smaller = open_dataset(packed(options, folder));
  EXPECT_EQ(smaller.preprocessing, fitted.preprocessing);
  EXPECT_EQ(stream(*smaller.train), stream(*plain.train));
  EXPECT_EQ(stream(*smaller.test), stream(*plain.test));
  EXPECT_EQ(probe(packed(options, folder)).fields, plain.train->fields());
  Preprocessing earlier = fitted.preprocessing;
  earlier.erase("image_reading");
  const Dataset before = open_dataset(packed(options, folder), &earlier);
  EXPECT_EQ(stream(*before.test), stream(*open_dataset(options, &earlier).test));
  EXPECT_NE(stream(*before.test), stream(*plain.test)) << "control";
  options.resize_size = 5;
  EXPECT_THAT(error_of([&] { open_dataset(packed(options, folder)); }).what(),
              HasSubstr("raise [data] resize"));
  EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr("raise [data] resize"));
}

// Of each pack that is opened, not of the first one of a process alone.
TEST(EncodedPacks, OtherSizesThanThoseThatWereFittedAreSaid) {
  const TempFolder folder;
  DatasetOptions options = write_folder(folder);
  write_pack(open_dataset(options), request_of(folder));
  std::string log;
  set_log_writer([&log](std::string_view line) { log += line; });
  options.image_size = 6;
  for (int i = 0; i < 2; ++i) {
    log.clear();
    open_dataset(packed(options, folder));
    EXPECT_THAT(
        log,
        HasSubstr("mean and deviation of the pack are of images scaled to 9 and cut to 7, not to 9 and 6"));
  }
  set_log_writer({});
}

TEST(EncodedPacks, DoNotDependOnThreadsAndGoOnWhereTheyWereInterrupted) {
  const TempFolder folder;
  const Dataset plain = open_dataset(write_folder(folder));
  PackRequest request = request_of(folder);
  request.threads = 1;
  write_pack(plain, request);
  const std::string manifest = read_file(request.folder + "/pack.json");
  remove_all(request.folder);
  request.threads = 4;
  arm_failpoints("pack.after_shard=error@9");
  EXPECT_THROW(write_pack(plain, request), Error);
  arm_failpoints("");
  EXPECT_FALSE(path_exists(request.folder));
  EXPECT_GT(write_pack(plain, request).kept, 3);
  EXPECT_EQ(read_file(request.folder + "/pack.json"), manifest);
  PackRequest again = request;
  again.folder += "-2";
  write_pack(open_dataset({.kind = "pack", .path = folder / "pack", .seed = 9, .image_size = 5}), again);
  EXPECT_EQ(read_file(again.folder + "/pack.json"), manifest) << "a pack of a pack";
}

TEST(EncodedPacks, HoldWholeImagesAlone) {
  const TempFolder folder;
  DatasetOptions options = write_folder(folder);
  folder.write("set/val/a/broken.png", "no image");
  const Error broken = error_of([&] { write_pack(open_dataset(options), request_of(folder)); });
  EXPECT_EQ(broken.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(broken.what(), HasSubstr("val/a/broken.png"));
  std::filesystem::remove(folder / "set/val/a/broken.png");
  folder.write("set/train/a/broken.png", "no image");
  options.normalize = false;  // so that no fit decodes those of training
  EXPECT_THAT(error_of([&] { write_pack(open_dataset(options), request_of(folder)); }).what(),
              HasSubstr("train/a/broken.png"));
  folder.write("set/train/a/broken.png", "");
  EXPECT_THAT(error_of([&] { write_pack(open_dataset(options), request_of(folder)); }).what(),
              HasSubstr("has 0 bytes"));
  std::filesystem::remove(folder / "set/train/a/broken.png");
  EXPECT_GT(write_pack(open_dataset(options), request_of(folder)).records, 1000) << "control";
}

TEST(EncodedPacks, AFileThatChangesIsNoticed) {
  const TempFolder folder;
  const Dataset plain = open_dataset(write_folder(folder));
  PackRequest request = request_of(folder);
  request.threads = 1;
  bool changed = false;
  request.progress = [&](uint64_t, uint64_t) {
    if (std::exchange(changed, true)) return;
    for (size_t i = 0; i < 18; ++i) {
      const auto file = folder / fmt::format("set/train/{}/{}.png", "abc"[i % 3], i);
      std::filesystem::resize_file(file, std::filesystem::file_size(file) + 1);
    }
  };
  const Error error = error_of([&] { write_pack(plain, request); });
  EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
  EXPECT_THAT(error.what(), HasSubstr("has changed while it was packed"));
}

TEST(EncodedPacks, PixelsHaveNoRegionsAndLayoutsAreKept) {
  const TempFolder folder;
  DatasetOptions options = write_folder(folder);
  PackRequest request = request_of(folder);
  request.layout = kEncodedRecords;
  options.keep_files = false;
  EXPECT_THAT(error_of([&] { write_pack(open_dataset(options), request); }).what(),
              HasSubstr("records of the layout images, not encoded"));
  request.layout = kImageRecords;
  write_pack(open_dataset(options), request);
  const Error error = error_of([&] { open_dataset(packed(options, folder)); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(), HasSubstr("--layout encoded"));
  options.augmentation.resized_crop = false;
  EXPECT_EQ(open_dataset(packed(options, folder)).train->size(), 18);
}

TEST(EncodedPacks, AreMixed) {
  const TempFolder folder;
  DatasetOptions options = write_folder(folder);
  options.kind = "mixture";
  options.path = folder.path();
  options.mixture = {"one: folder weight=3 path=set", "two: folder weight=1 path=set"};
  const Dataset plain = open_dataset(options);
  write_pack(plain, request_of(folder));
  EXPECT_EQ(storage::read_pack((folder / "pack").string()).parts[1].layout, kEncodedRecords);
  const Dataset whole = open_dataset(packed(options, folder));
  EXPECT_EQ(stream(*whole.train), stream(*plain.train));
  EXPECT_EQ(stream(*whole.test), stream(*plain.test));
}

// An index whose shard is whole, but which says something that cannot be.
TEST(EncodedPacks, AnIndexThatMakesNoSenseIsRefused) {
  const TempFolder folder;
  const DatasetOptions options = write_folder(folder);
  const PackRequest request = request_of(folder);
  write_pack(open_dataset(options), request);
  storage::PackInfo info = storage::read_pack(request.folder);
  storage::PackSplit& index = info.splits[1];
  ASSERT_EQ(index.name, "train.ends");
  std::vector<std::byte> good(18 * kIndexRecordBytes);
  storage::PackReader(request.folder, info, index, storage::PackAccess::kStreamed).read(0, 18, good);
  const auto refused = [&](const auto& change, const std::string& part) {
    std::vector<std::byte> records = good;
    change(records);
    storage::ShardWriter writer(request.folder + "/changed.shard", kIndexRecordBytes, 0);
    writer.append(records);
    index.shards = {writer.commit()};
    storage::write_pack(request.folder, info);
    const Error error = error_of([&] { open_dataset(packed(options, folder)); });
    EXPECT_THAT(error.what(), HasSubstr(part));
    return error.code();
  };
  const auto byte = [](size_t at, int value) {
    return [at, value](auto& records) { records[at] = static_cast<std::byte>(value); };
  };
  EXPECT_EQ(refused(byte(4, 1), "about image 0: it goes from"), ErrorCode::kDataLoss);
  EXPECT_EQ(refused([](auto& all) { std::copy_n(all.begin(), 8, all.begin() + 12); }, "about image 1"),
            ErrorCode::kDataLoss);
  EXPECT_EQ(refused(byte(5 * 12 + 8, 3), "about image 5: its class is 3 of 3"), ErrorCode::kDataLoss);
  EXPECT_EQ(refused(byte(5 * 12 + 11, 0x80), "about image 5: its class is -"), ErrorCode::kDataLoss);
  EXPECT_EQ(refused([](auto& all) { all.resize(17 * 12); }, "the index is of"), ErrorCode::kDataLoss);
  EXPECT_EQ(refused([](auto&) {}, "no error"), ErrorCode::kInternal) << "control";
  info.lineage.erase("resize_size");
  EXPECT_EQ(refused([](auto&) {}, "its lineage has no resize_size"), ErrorCode::kDataLoss);
}

TEST(EncodedPacks, DamageIsNamedAndNeverDecoded) {
  const TempFolder folder;
  const DatasetOptions options = write_folder(folder);
  const PackRequest request = request_of(folder);
  write_pack(open_dataset(options), request);
  const std::string path = request.folder + "/train-00003.shard";
  std::string bytes = read_file(path);
  bytes[500] ^= 4;
  write_file_atomic(path, bytes);
  const Dataset dataset = open_dataset(packed(options, folder));
  const Error error = error_of([&] { stream(*dataset.train); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr("train-00003.shard"));
}

}  // namespace
}  // namespace furrow::data
