// Image sets: splits, fitted values, labels, and the errors of each kind of bad file.
#include "furrow/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "furrow/base/error.h"
#include "furrow/data/images.h"
#include "furrow/data/test_files.h"
#include "furrow/preprocess/image_normaliser.h"

namespace furrow::data {
namespace {

using preprocess::ImageNormaliser;
using testing::ByteVector;
using testing::error_of;
using ::testing::HasSubstr;
using testing::idx_bytes;
using testing::made_up_pixel;
using testing::ReadBuffers;
using testing::TempFolder;
using testing::write_images;

DatasetOptions options_of(const TempFolder& folder, double validation_fraction = 0, uint64_t seed = 1) {
  return {.kind = "idx", .path = folder.path(), .validation_fraction = validation_fraction, .seed = seed};
}

struct Sample {
  std::vector<float> input;
  int64_t target;
};

Sample sample(const Source& source, int64_t index) {
  ReadBuffers buffers(source, 1);
  source.read(std::vector<int64_t>{index}, buffers.views);
  const auto input = buffers.views[0].as<float>();
  return {{input.begin(), input.end()}, buffers.views[1].as<int64_t>()[0]};
}

// Which made-up image this is, by its pixels under `normaliser`; -1: none.
int64_t image_of(const Sample& sample, const ImageNormaliser& normaliser, int64_t count) {
  for (int64_t image = 0; image < count; ++image) {
    bool same = true;
    for (size_t p = 0; p < 12 && same; ++p) {
      same = sample.input[p] == normaliser.value(made_up_pixel(static_cast<size_t>(image), p));
    }
    if (same) return image;
  }
  return -1;
}

void expect_error(const TempFolder& folder, ErrorCode code, const std::vector<std::string>& parts,
                  const Preprocessing* preprocessing = nullptr) {
  try {
    const Dataset dataset = open_dataset(options_of(folder), preprocessing);
    if (dataset.test != nullptr) dataset.test->size();
    FAIL() << "no error, expected " << parts.at(0);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(ImageSets, SplitsAreDisjointCompleteAndKeyed) {
  const TempFolder folder;
  write_images(folder, "train", 40);
  const Dataset dataset = open_dataset(options_of(folder, 0.25));
  ASSERT_EQ(dataset.train->size(), 30);
  ASSERT_EQ(dataset.validation->size(), 10);
  EXPECT_EQ(dataset.test, nullptr);
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  std::set<int64_t> seen;
  for (const Source* source : {dataset.train.get(), dataset.validation.get()}) {
    for (int64_t i = 0; i < source->size(); ++i) {
      const Sample got = sample(*source, i);
      const int64_t image = image_of(got, *normaliser, 40);
      EXPECT_EQ(got.target, image % 3);
      EXPECT_TRUE(seen.insert(image).second);
    }
  }
  EXPECT_EQ(seen.size(), 40u);
  EXPECT_FALSE(seen.contains(-1));
  const Dataset other = open_dataset(options_of(folder, 0.25, 2));
  EXPECT_NE(dataset.preprocessing, other.preprocessing);  // another seed carves other images
  EXPECT_EQ(dataset.preprocessing, open_dataset(options_of(folder, 0.25)).preprocessing);
}

TEST(ImageSets, StatisticsAreThoseOfTheTrainingSplitAlone) {
  const TempFolder folder;
  write_images(folder, "train", 50);
  const Dataset dataset = open_dataset(options_of(folder, 0.4));
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < dataset.train->size(); ++i) {
    for (const float value : sample(*dataset.train, i).input) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
  }
  const double count = static_cast<double>(dataset.train->size()) * 12;
  EXPECT_NEAR(sum / count, 0, 1e-6);
  EXPECT_NEAR(squares / count, 1, 1e-6);
}

TEST(ImageSets, RowsEqualSingleReads) {
  const TempFolder folder;
  write_images(folder, "train", 40);
  const Dataset dataset = open_dataset(options_of(folder, 0.1));
  const std::vector<int64_t> wanted{35, 0, 7, 7, 21};
  ReadBuffers buffers(*dataset.train, wanted.size());
  dataset.train->read(wanted, buffers.views);
  for (size_t row = 0; row < wanted.size(); ++row) {
    const Sample single = sample(*dataset.train, wanted[row]);
    const auto input = buffers.views[0].as<float>().subspan(row * 12, 12);
    EXPECT_EQ(std::vector<float>(input.begin(), input.end()), single.input);
    EXPECT_EQ(buffers.views[1].as<int64_t>()[row], single.target);
  }
  EXPECT_THROW(sample(*dataset.train, 36), Error);
  EXPECT_THROW(sample(*dataset.train, -1), Error);
}

TEST(ImageSets, ShapeClassesAndProbeAgree) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  const Dataset dataset = open_dataset(options_of(folder));
  EXPECT_EQ(dataset.train->fields()[0], (Field{"input", DType::kF32, {1, 4, 3}}));
  EXPECT_EQ(dataset.train->fields()[1], (Field{"target", DType::kI64, {}}));
  EXPECT_EQ(dataset.train->classes(), 3);
  EXPECT_EQ(dataset.preprocessing.at("class_names"), "0\n1\n2");
  EXPECT_EQ(dataset.validation, nullptr);
  const DataInfo info = probe(options_of(folder));
  EXPECT_EQ(info.fields, dataset.train->fields());
  EXPECT_EQ(info.classes, 3);
  EXPECT_EQ(info.train_samples, 12);
  EXPECT_EQ(probe(options_of(folder, 0.25)).train_samples, 9);
}

TEST(ImageSets, ChannelsComeFromFourDims) {
  const TempFolder folder;
  folder.write("train-images-idx3-ubyte", idx_bytes(8, {2, 3, 2, 2}, ByteVector(24, 9)));
  folder.write("train-labels-idx1-ubyte", idx_bytes(8, {2}, {0, 1}));
  EXPECT_EQ(open_dataset(options_of(folder)).train->fields()[0].shape, (Shape{3, 2, 2}));
}

TEST(ImageSets, TestFilesAreOpenedAtFirstUse) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  folder.write("t10k-images-idx3-ubyte", "not IDX");
  folder.write("t10k-labels-idx1-ubyte", "not IDX");
  const Dataset dataset = open_dataset(options_of(folder));  // damage goes unseen
  EXPECT_EQ(dataset.test->classes(), 3);
  EXPECT_EQ(dataset.test->fields(), dataset.train->fields());
  EXPECT_THROW(dataset.test->size(), Error);
  EXPECT_THROW(dataset.test->size(), Error);  // and is seen every time
  write_images(folder, "t10k", 5);
  EXPECT_EQ(dataset.test->size(), 5);
  EXPECT_EQ(sample(*dataset.test, 4).target, 1);
}

TEST(ImageSets, TestUsesTheFittedValues) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  write_images(folder, "t10k", 4);
  const Dataset dataset = open_dataset(options_of(folder));
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(image_of(sample(*dataset.test, i), *normaliser, 4), i);
}

TEST(ImageSets, FittedEarlierIsUsedInsteadOfFitting) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  const Preprocessing fitted{{"kind", "image"}, {"mean", "0.5"}, {"std", "0.25"}, {"classes", "5"}};
  const Dataset dataset = open_dataset(options_of(folder), &fitted);
  EXPECT_EQ(dataset.preprocessing, fitted);
  EXPECT_EQ(dataset.train->classes(), 5);
  EXPECT_EQ(sample(*dataset.train, 0).input[0], ImageNormaliser(0.5, 0.25).value(made_up_pixel(0, 0)));
  const Preprocessing fewer{{"kind", "image"}, {"mean", "0.5"}, {"std", "0.25"}, {"classes", "2"}};
  expect_error(folder, ErrorCode::kInvalidArgument, {"train-labels", "label 2 of sample 2", "2 classes"},
               &fewer);
  const Preprocessing text{{"kind", "byte"}, {"classes", "256"}};
  expect_error(folder, ErrorCode::kInvalidArgument, {"'byte' is not for this kind of data"}, &text);
  const Preprocessing damaged{{"kind", "image"}, {"mean", "0.5"}, {"std", "0.25"}, {"classes", "x"}};
  expect_error(folder, ErrorCode::kDataLoss, {"'classes' is 'x'"}, &damaged);
}

TEST(ImageSets, MissingFilesAreNamed) {
  const TempFolder folder;
  expect_error(folder, ErrorCode::kNotFound,
               {"train-images-idx3-ubyte", ".gz", "dataset_path", "docs/datasets.md"});
  write_images(folder, "train", 12);
  std::filesystem::remove(folder / "train-labels-idx1-ubyte");
  expect_error(folder, ErrorCode::kNotFound, {"train-labels-idx1-ubyte"});
  write_images(folder, "train", 12);
  write_images(folder, "t10k", 3);
  std::filesystem::remove(folder / "t10k-images-idx3-ubyte");
  expect_error(folder, ErrorCode::kNotFound, {"t10k-images-idx3-ubyte"});
}

TEST(ImageSets, DamagedFilesAreNamed) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  folder.write("train-images-idx3-ubyte", idx_bytes(8, {12, 4, 3}, ByteVector(100)));
  expect_error(folder, ErrorCode::kDataLoss, {"train-images-idx3-ubyte", "more bytes than the 100"});
  write_images(folder, "train", 12);
  folder.write("train-labels-idx1-ubyte", "\x01\x02\x03\x04");
  expect_error(folder, ErrorCode::kDataLoss, {"train-labels-idx1-ubyte", "wrong magic"});
  folder.write("train-labels-idx1-ubyte", idx_bytes(8, {11}, ByteVector(11)));
  expect_error(folder, ErrorCode::kDataLoss, {"12 images", "11 labels"});
}

TEST(ImageSets, WrongFilesAreNamed) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  folder.write("train-images-idx3-ubyte", idx_bytes(8, {12}, ByteVector(12)));
  expect_error(folder, ErrorCode::kInvalidArgument, {"train-images-idx3-ubyte", "not 8-bit images"});
  folder.write("train-images-idx3-ubyte", idx_bytes(0x0D, {12, 2, 2}, ByteVector(192)));
  expect_error(folder, ErrorCode::kInvalidArgument, {"float32", "not 8-bit images"});
  folder.write("train-labels-idx1-ubyte", idx_bytes(8, {3, 4}, ByteVector(12)));
  expect_error(folder, ErrorCode::kInvalidArgument, {"train-labels-idx1-ubyte", "not 8-bit labels"});
}

TEST(ImageSets, EmptySetsAreNamed) {
  const TempFolder folder;
  write_images(folder, "train", 0);
  expect_error(folder, ErrorCode::kInvalidArgument, {"train-images-idx3-ubyte", "empty set [0, 4, 3]"});
}

TEST(ImageSets, LabelsOutOfRangeAreNamed) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  write_images(folder, "t10k", 7, 4);
  expect_error(folder, ErrorCode::kInvalidArgument,
               {"t10k-labels", "label 3 of sample 3", "3 classes (0 to 2)"});
  write_images(folder, "t10k", 7);
  ByteVector labels(12, 0);
  labels[1] = 1;
  labels[9] = 255;
  folder.write("train-labels-idx1-ubyte", idx_bytes(8, {12}, labels));
  expect_error(folder, ErrorCode::kInvalidArgument,
               {"train-labels", "label 255 of sample 9", "253 of the 255"});
}

TEST(ImageSets, TestImagesOfAnotherShapeAreNamed) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  folder.write("t10k-images-idx3-ubyte", idx_bytes(8, {2, 2, 2}, ByteVector(8)));
  folder.write("t10k-labels-idx1-ubyte", idx_bytes(8, {2}, {0, 1}));
  expect_error(folder, ErrorCode::kInvalidArgument, {"t10k-images", "[1, 2, 2]", "[1, 4, 3]"});
}

TEST(ImageSets, AFractionThatLeavesNothingIsAnError) {
  const TempFolder folder;
  write_images(folder, "train", 12);
  EXPECT_THROW(open_dataset(options_of(folder, 0.99)), Error);
  EXPECT_THROW(open_dataset(options_of(folder, 1.0)), Error);
}

TEST(Classes, AClassWithoutSamplesIsAllowedMostlyEmptyOnesAreNot) {
  EXPECT_EQ(count_classes(std::vector<int32_t>{1, 2, 3}, "f"), 4);  // as EMNIST's letters, which count from 1
  EXPECT_EQ(count_classes(std::vector<int32_t>{0}, "f"), 1);
  EXPECT_THROW(count_classes(std::vector<int32_t>{0, 9}, "f"), Error);
}

TEST(Kinds, AreSortedAndNamed) {
  const auto kinds = source_kinds();
  for (size_t i = 1; i < kinds.size(); ++i) EXPECT_LT(kinds[i - 1].name, kinds[i].name);
  for (const SourceKind& kind : kinds) EXPECT_FALSE(kind.summary.empty());
}

// Published values: mean 0.2860, std 0.3530 over all 60,000 training images; 6,000 of each of ten classes.
// A link to itself, a name that no file can have.
TEST(Kinds, WhatTheFileSystemRefusesIsAnErrorThatNamesThePath) {
  const TempFolder folder;
  std::filesystem::create_symlink("loop", folder / "loop");
  for (const std::filesystem::path& path : {folder / "loop", folder / std::string(300, 'x')}) {
    for (const SourceKind& kind : source_kinds()) {
      if (kind.name == "mixture") continue;
      DatasetOptions options{.kind = std::string(kind.name), .path = path, .context = 4};
      options.table_rules.target = "y";
      options.train_files = {"a"};
      EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr(path.string())) << kind.name;
      EXPECT_THAT(error_of([&] { probe(options); }).what(), HasSubstr(path.string())) << kind.name;
    }
    EXPECT_THAT(error_of([&] { guess_kind(path); }).what(), HasSubstr(path.string()));
  }
}

TEST(RealSets, FashionMnist) {
  const auto path = testing::real_data("fashion-mnist");
  FURROW_NEED_DATA(path, "fashion-mnist (Debian package dataset-fashion-mnist)");
  const Dataset dataset = open_dataset({.kind = "idx", .path = path});
  EXPECT_EQ(dataset.train->size(), 60000);
  EXPECT_EQ(dataset.test->size(), 10000);
  EXPECT_EQ(dataset.train->classes(), 10);
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  EXPECT_NEAR(normaliser->mean(), 0.2860, 5e-5);
  EXPECT_NEAR(normaliser->std(), 0.3530, 5e-5);
  const int64_t first_labels[] = {9, 0, 0, 3, 0};
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(sample(*dataset.train, i).target, first_labels[i]);
  EXPECT_EQ(probe({.kind = "idx", .path = path}).classes, 10);
}

// Published values: mean 0.1307, std 0.3081.
TEST(RealSets, Mnist) {
  const auto path = testing::real_data("mnist");
  FURROW_NEED_DATA(path, "mnist");
  const Dataset dataset = open_dataset({.kind = "idx", .path = path, .validation_fraction = 0.1});
  EXPECT_EQ(dataset.train->size(), 54000);
  EXPECT_EQ(dataset.validation->size(), 6000);
  EXPECT_EQ(dataset.test->size(), 10000);
  const auto normaliser = preprocess::load_as<ImageNormaliser>(dataset.preprocessing);
  EXPECT_NEAR(normaliser->mean(), 0.1307, 1e-3);
  EXPECT_NEAR(normaliser->std(), 0.3081, 1e-3);
  const int64_t first_labels[] = {7, 2, 1, 0, 4};
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(sample(*dataset.test, i).target, first_labels[i]);
}

}  // namespace
}  // namespace furrow::data
