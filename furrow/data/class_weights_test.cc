// Weights that make the classes of a split count alike: counted over every kind of source, and as text.
#include "furrow/data/class_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/data/dataset.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

TEST(ClassWeights, AreInverseToTheCounts) {
  const std::vector<int64_t> counts = {10, 30, 60};
  EXPECT_THAT(balanced_weights(counts, {}), ElementsAre(100.0f / 30, 100.0f / 90, 100.0f / 180));
  const std::vector<int64_t> empty = {10, 0, 60};
  const std::vector<std::string> names = {"cat", "dog", "wolf"};
  EXPECT_THAT(error_of([&] { balanced_weights(empty, names); }).message(),
              HasSubstr("class 1, 'dog', has no sample in the training split"));
}

TEST(ClassWeights, ReadBackBitForBit) {
  const std::vector<float> weights = {0.1f, 3, 1.0f / 3, 1e-30f, 0};
  EXPECT_EQ(parse_weights(weights_text(weights)), weights);
  for (const char* const text : {"", "1 x", "1 -2", "1  2", "nan"})
    EXPECT_EQ(error_of([&] { parse_weights(text); }).code(), ErrorCode::kDataLoss) << text;
}

std::string rows_of(int no, int yes) {
  std::string text = "x,y\n";
  for (int i = 0; i < no + yes; ++i) text += std::to_string(i) + (i < no ? ",no\n" : ",yes\n");
  return text;
}

// Each kind of target: labels of a table, the same as a number; a number is no class.
TEST(ClassWeights, CountLabelsAndTwoClassesAsANumber) {
  const TempFolder folder;
  folder.write("t.csv", rows_of(1500, 700));
  DatasetOptions options{.kind = "table", .path = folder.path() / "t.csv"};
  options.table_rules.target = "y";
  EXPECT_THAT(class_counts(*open_dataset(options).train), ElementsAre(1500, 700));
  options.binary_targets = true;
  EXPECT_THAT(class_counts(*open_dataset(options).train), ElementsAre(1500, 700));
  options.binary_targets = false;
  options.table_rules.target = "x";
  EXPECT_THAT(error_of([&] { class_counts(*open_dataset(options).train); }).message(),
              HasSubstr("is float32 [1], no class"));
}

// read_targets() without a pixel is read()'s second field, of a part of the images too.
TEST(ClassWeights, CountTheTrainingPartOfImages) {
  const TempFolder folder;
  testing::write_images(folder, "train", 100, 3);
  testing::write_images(folder, "t10k", 10, 3);
  DatasetOptions options{.kind = "idx", .path = folder.path(), .validation_fraction = 0.25};
  options.augmentation = {.crop_padding = 1, .flip = true};
  const Dataset dataset = open_dataset(options);
  std::vector<int64_t> expected(3);
  testing::ReadBuffers all(*dataset.train, 75);
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < 75; ++i) indices.push_back(i);
  dataset.train->read(indices, all.views);
  for (const int64_t label : all.views[1].as<int64_t>()) ++expected[static_cast<size_t>(label)];
  EXPECT_EQ(class_counts(*dataset.train), expected);
  Array targets(DType::kI64, {75});
  dataset.train->Source::read_targets(indices, targets.view());
  EXPECT_TRUE(std::ranges::equal(targets.view().as<int64_t>(), all.views[1].as<int64_t>()));
  CancelToken cancel;
  cancel.cancel();
  EXPECT_EQ(error_of([&] { class_counts(*dataset.train, &cancel); }).code(), ErrorCode::kCancelled);
}

}  // namespace
}  // namespace furrow::data
