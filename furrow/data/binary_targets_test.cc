// Two classes as one number: the same samples, whatever kind of set they are in; all else refused.
#include "furrow/data/binary_targets.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/data/pack.h"
#include "furrow/data/test_files.h"
#include "furrow/preprocess/class_names.h"

namespace furrow::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

std::vector<int64_t> all_of(const Source& source) {
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < source.size(); ++i) indices.push_back(i);
  return indices;
}

// Every split of the set read as classes and as a number: inputs of equal bits, targets of equal value.
void expect_same(DatasetOptions options) {
  if (options.kind != "table") options.augmentation = {.crop_padding = 1, .flip = true};
  const Dataset labelled = open_dataset(options);
  options.binary_targets = true;
  const Dataset binary = open_dataset(options);
  EXPECT_EQ(binary.preprocessing, labelled.preprocessing);
  EXPECT_EQ(binary.preprocessing.at("classes"), "2");
  EXPECT_EQ(probe(options).classes, 1);
  EXPECT_EQ(probe(options).fields, binary.train->fields());
  for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
    const Source *const a = find_split(labelled, split), *const b = find_split(binary, split);
    ASSERT_EQ(a == nullptr, b == nullptr);
    if (a == nullptr) continue;
    ASSERT_EQ(a->size(), b->size());
    EXPECT_EQ(b->classes(), 1);
    EXPECT_EQ(b->fields()[1], (Field{"target", DType::kF32, {1}}));
    const std::vector<int64_t> indices = all_of(*a);
    ReadBuffers classes(*a, indices.size()), numbers(*b, indices.size());
    a->read_at(indices, indices, classes.views);
    b->read_at(indices, indices, numbers.views);
    EXPECT_TRUE(std::ranges::equal(classes.views[0].bytes, numbers.views[0].bytes));
    EXPECT_TRUE(std::ranges::equal(classes.views[1].as<int64_t>(), numbers.views[1].as<float>()));
    EXPECT_GT(std::ranges::count(numbers.views[1].as<float>(), 1.0f), 0) << "control: both occur";
  }
}

std::string rows(const char* no, const char* yes) {
  std::string text = "x,y\n";
  for (int i = 0; i < 40; ++i) text += fmt::format("{},{}\n", i, i % 3 == 0 ? yes : no);
  return text;
}

DatasetOptions table(const std::filesystem::path& path) {
  DatasetOptions options{.kind = "table", .path = path, .validation_fraction = 0.3, .seed = 3};
  options.table_rules.target = "y";
  return options;
}

TEST(BinaryTargets, OfTablesAreTheSecondOfTwoValues) {
  const TempFolder folder;
  for (const auto& [no, yes] : {std::pair{"0", "1"}, {"false", "true"}, {"<=50K", ">50K"}, {"-1", "1"}}) {
    DatasetOptions options = table(folder.write("t.csv", rows(no, yes)));
    expect_same(options);
    options.binary_targets = true;
    const Dataset dataset = open_dataset(options);
    EXPECT_THAT(preprocess::class_names(dataset.preprocessing), ElementsAre(no, yes));
  }
}

TEST(BinaryTargets, OfImagesPacksAndMixturesAreTheSecondClass) {
  const TempFolder folder;
  testing::write_images(folder, "train", 40, 2);
  testing::write_images(folder, "t10k", 9, 2);
  DatasetOptions options{.kind = "idx", .path = folder.path(), .validation_fraction = 0.2};
  expect_same(options);
  options.binary_targets = true;
  const std::string pack = (folder / "pack").string();
  write_pack(open_dataset(options), {.folder = pack, .kind = "idx"});  // of classes all the same
  expect_same({.kind = "pack", .path = pack});
  DatasetOptions mixed{.kind = "mixture", .path = folder.path(), .validation_fraction = 0.2};
  mixed.mixture = {"a: idx weight=1 path=.", "b: pack weight=2 path=pack"};
  expect_same(mixed);
}

TEST(BinaryTargets, AllElseIsRefusedWithTheRemedy) {
  const TempFolder folder;
  testing::write_images(folder, "train", 40, 3);
  DatasetOptions images{.kind = "idx", .path = folder.path(), .test_images = "", .binary_targets = true};
  DatasetOptions number = table(folder.write("n.csv", rows("0", "1")));
  number.table_rules.number_target = number.binary_targets = true;
  DatasetOptions one = table(folder.write("one.csv", rows("1", "1")));
  one.binary_targets = true;
  DatasetOptions text{.kind = "text", .path = folder.write("t.txt", "some text, some more"), .context = 4};
  text.binary_targets = true;
  for (const auto& [options, said] : std::vector<std::pair<DatasetOptions, std::string>>{
           {images, "these data have 3"},
           {number, "a number: set it to mse"},
           {one, "these data have one"},
           {text, "tokens of a text: set it to cross_entropy"}}) {
    for (const bool probed : {false, true}) {
      const Error error = error_of([&] { probed ? (void)probe(options) : (void)open_dataset(options); });
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("loss = binary"), HasSubstr(said)));
    }
  }
}

TEST(BinaryTargets, AreConfigured) {
  const auto options = [](const std::string& training) {
    return dataset_options(config::parse("[model]\nname = \"mlp\"\n[training]\nsteps = 1\n" + training, "c"));
  };
  EXPECT_TRUE(options("loss = \"binary\"").binary_targets);
  EXPECT_FALSE(options("loss = \"mse\"").binary_targets);
  EXPECT_FALSE(options("").binary_targets);
}

}  // namespace
}  // namespace furrow::data
