// CIFAR-10's binary version, and what all image sets share: values per channel, augmentation by position.
#include "furrow/data/cifar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/config/data.h"
#include "furrow/data/dataset.h"
#include "furrow/data/loader.h"
#include "furrow/data/test_files.h"
#include "furrow/preprocess/image_augmenter.h"
#include "furrow/preprocess/image_normaliser.h"

namespace furrow::data {
namespace {

using preprocess::ImageAugmenter;
using preprocess::ImageNormaliser;
using testing::ByteVector;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

uint8_t pixel_of(size_t record, size_t pixel) {
  return static_cast<uint8_t>(record * 37 + pixel * 11 + (pixel >> 7) + pixel / 1024 * 40);
}

// Records first to first + count of a made-up set, labels record % 10.
ByteVector records(size_t first, size_t count) {
  ByteVector bytes;
  for (size_t record = first; record < first + count; ++record) {
    bytes.push_back(static_cast<uint8_t>(record % 10));
    for (size_t p = 0; p < 3072; ++p) bytes.push_back(pixel_of(record, p));
  }
  return bytes;
}

DatasetOptions options_of(const TempFolder& folder) {
  return {.kind = "cifar10",
          .path = folder.path(),
          .seed = 5,
          .train_files = {"a.bin", "b.bin"},
          .test_files = {"test.bin"}};
}

void write_set(const TempFolder& folder) {
  folder.write("a.bin", records(0, 20));
  folder.write("b.bin", records(20, 12));
}

std::vector<float> row(const Source& source, int64_t index, int64_t position = -1) {
  ReadBuffers buffers(source, 1);
  const std::vector<int64_t> indices{index}, positions{position};
  if (position < 0) {
    source.read(indices, buffers.views);
  } else {
    source.read_at(indices, positions, buffers.views);
  }
  const auto input = buffers.views[0].as<float>();
  return {input.begin(), input.end()};
}

std::string message_of(const DatasetOptions& options, ErrorCode code) {
  try {
    const Dataset dataset = open_dataset(options);
    if (dataset.test) dataset.test->size();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(Cifar, FilesAreReadInOrder) {
  const TempFolder folder;
  write_set(folder);
  DatasetOptions options = options_of(folder);
  options.normalize = false;
  const Dataset dataset = open_dataset(options);
  ASSERT_EQ(dataset.train->size(), 32);
  EXPECT_EQ(dataset.train->classes(), 10);
  EXPECT_EQ(dataset.test, nullptr);
  EXPECT_EQ(dataset.train->fields()[0].shape, (Shape{3, 32, 32}));
  for (const int64_t record : {0, 19, 20, 31}) {
    const std::vector<float> got = row(*dataset.train, record);
    for (size_t p = 0; p < 3072; ++p) {
      ASSERT_EQ(got[p], ImageNormaliser(0, 1).value(pixel_of(static_cast<size_t>(record), p)));
    }
  }
  const DataInfo info = probe(options);
  EXPECT_EQ(info.fields, dataset.train->fields());
  EXPECT_EQ(info.classes, 10);
  EXPECT_EQ(info.train_samples, 32);
  EXPECT_EQ(dataset.preprocessing.at("class_names").substr(0, 24), "airplane\nautomobile\nbird");
}

TEST(Cifar, EachChannelIsNormalisedOnTheTrainingSplit) {
  const TempFolder folder;
  write_set(folder);
  DatasetOptions options = options_of(folder);
  options.validation_fraction = 0.25;
  const Dataset dataset = open_dataset(options);
  ASSERT_EQ(dataset.train->size(), 24);
  std::array<double, 3> sum{}, squares{};
  for (int64_t i = 0; i < 24; ++i) {
    const std::vector<float> got = row(*dataset.train, i);
    for (size_t p = 0; p < 3072; ++p) {
      sum[p / 1024] += got[p];
      squares[p / 1024] += double{got[p]} * got[p];
    }
  }
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(sum[c] / (24 * 1024), 0, 1e-6);
    EXPECT_NEAR(squares[c] / (24 * 1024), 1, 1e-6);
  }
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  EXPECT_EQ(normaliser->channels(), 3u);
  EXPECT_NE(normaliser->mean(0), normaliser->mean(1));
  // Fitted earlier is used instead of fitting.
  const Preprocessing other{{"kind", "image"}, {"mean", "0.5 0.5 0.5"}, {"std", "1 1 1"}, {"classes", "10"}};
  EXPECT_EQ(open_dataset(options, &other).preprocessing, other);
  const Preprocessing two{{"kind", "image"}, {"mean", "0.5 0.5"}, {"std", "1 1"}, {"classes", "10"}};
  EXPECT_THROW(open_dataset(options, &two), Error);
}

TEST(Cifar, AugmentationIsOfTheTrainingSplitAndItsPositions) {
  const TempFolder folder;
  write_set(folder);
  folder.write("test.bin", records(3, 4));
  DatasetOptions options = options_of(folder);
  options.validation_fraction = 0.25;
  const Dataset plain = open_dataset(options);
  options.augmentation = {4, true};
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(plain.preprocessing, dataset.preprocessing);
  for (const auto& source : {&Dataset::validation, &Dataset::test}) {
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(row(*(dataset.*source), i, 7), row(*(plain.*source), i));
  }
  EXPECT_EQ(row(*dataset.train, 3), row(*plain.train, 3));  // without a position there is none
  EXPECT_EQ(row(*dataset.train, 3, 8), row(*dataset.train, 3, 8));
  int different = 0;
  for (int64_t position = 0; position < 20; ++position) {
    different += row(*dataset.train, 3, position) != row(*plain.train, 3);
  }
  EXPECT_GT(different, 15);
}

// The augmented pixels are those of the augmenter, whatever the batch, the prefetch and the resumed position.
TEST(Cifar, AugmentedBatchesDependOnNothingButThePosition) {
  const TempFolder folder;
  write_set(folder);
  DatasetOptions options = options_of(folder);
  options.augmentation = {4, true};
  const Dataset dataset = open_dataset(options);
  const SampleOrder order(9, 32, true);
  const auto run = [&](int64_t position, std::vector<int64_t> sizes, int prefetch) {
    Loader loader(*dataset.train, order,
                  {.sizes = std::move(sizes), .position = position, .end = 70, .prefetch = prefetch});
    std::vector<float> values;
    while (const Batch* batch = loader.next()) {
      const auto input = batch->arrays[0].as<float>();
      values.insert(values.end(), input.begin(), input.end());
      loader.release();
    }
    return values;
  };
  const std::vector<float> all = run(0, {8}, 0);
  EXPECT_EQ(run(0, {5, 2}, 3), all);
  const std::vector<float> late = run(33, {7}, 2);
  EXPECT_TRUE(std::equal(late.begin(), late.end(), all.begin() + 33 * 3072, all.end()));
  std::vector<int64_t> index(1);
  order.indices(40, index);
  ByteVector image(3072), out(3072);
  for (size_t p = 0; p < 3072; ++p) image[p] = pixel_of(static_cast<size_t>(index[0]), p);
  ImageAugmenter(5, {4, true}).apply(40, {3, 32, 32}, image, out);
  std::vector<float> expected(3072);
  preprocess::load_as<ImageNormaliser>(dataset.preprocessing)->apply(out, expected);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), all.begin() + 40 * 3072));
}

TEST(Cifar, DamageIsNamed) {
  const TempFolder folder;
  write_set(folder);
  ByteVector cut = records(20, 12);
  cut.pop_back();
  folder.write("b.bin", cut);
  EXPECT_THAT(message_of(options_of(folder), ErrorCode::kDataLoss),
              HasSubstr("b.bin has 36875 bytes, not a multiple of 3073"));
  ByteVector bad = records(20, 12);
  bad[5 * kCifarRecordBytes] = 10;
  folder.write("b.bin", bad);
  EXPECT_THAT(message_of(options_of(folder), ErrorCode::kDataLoss),
              HasSubstr("b.bin: record 5 has label 10"));
  folder.write("b.bin", ByteVector());
  EXPECT_THAT(message_of(options_of(folder), ErrorCode::kInvalidArgument), HasSubstr("b.bin is empty"));
  std::filesystem::remove(folder / "b.bin");
  EXPECT_THAT(message_of(options_of(folder), ErrorCode::kNotFound), HasSubstr("b.bin"));
  DatasetOptions none = options_of(folder);
  none.train_files.clear();
  EXPECT_THAT(message_of(none, ErrorCode::kInvalidArgument), HasSubstr("train_files is empty"));
}

TEST(Cifar, CompressedEqualsPlain) {
  const TempFolder folder;
  write_set(folder);
  const Dataset plain = open_dataset(options_of(folder));
  folder.write("b.bin.gz", testing::gzip_bytes(records(20, 12)));
  std::filesystem::remove(folder / "b.bin");
  const Dataset packed = open_dataset(options_of(folder));
  EXPECT_EQ(row(*plain.train, 25), row(*packed.train, 25));
  EXPECT_EQ(probe(options_of(folder)).train_samples, 32);
}

// Published values of the training set: mean .4914 .4822 .4465, deviation .2470 .2435 .2616; 5,000 images of
// each class, of which the first file has 1,005 of class 0.
TEST(RealSets, Cifar10) {
  const auto path = testing::real_cifar10();
  FURROW_NEED_DATA(path, "cifar10 (set CIFAR10 to the folder of the .bin files)");
  const config::Data defaults;
  const Dataset dataset =
      open_dataset({.kind = "cifar10", .path = path, .train_files = defaults.train_files});
  ASSERT_EQ(dataset.train->size(), 50000);
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  const double means[] = {.49139968, .48215841, .44653091}, stds[] = {.24703223, .24348513, .26158784};
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(normaliser->mean(c), means[c], 1e-8);
    EXPECT_NEAR(normaliser->std(c), stds[c], 1e-8);
  }
  std::vector<int64_t> indices(10000);
  std::iota(indices.begin(), indices.end(), 0);
  ReadBuffers buffers(*dataset.train, indices.size());
  dataset.train->read(indices, buffers.views);
  int64_t first_class = 0;
  for (const int64_t label : buffers.views[1].as<int64_t>()) first_class += label == 0;
  EXPECT_EQ(first_class, 1005);
}

}  // namespace
}  // namespace furrow::data
