// Image folders: splits, classes by name, damage.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/data/image_file.h"
#include "furrow/data/pack.h"
#include "furrow/data/test_images.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/preprocess/image_normaliser.h"

namespace furrow::data {
namespace {

using testing::ByteVector;
using testing::error_of;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::sample;
using testing::TempFolder;

void write(const TempFolder& folder, const std::string& place, const char* name) {
  std::filesystem::create_directories((folder / place).parent_path());
  folder.write(place, sample(name));
}

DatasetOptions options_of(const TempFolder& folder) {
  return {.kind = "folder", .path = folder.path(), .seed = 1, .readers = 2, .image_size = 8};
}

std::vector<std::string> names_of(const Dataset& dataset) {
  return preprocess::class_names(dataset.preprocessing);
}

TEST(Folders, ClassesAreFoldersInOrder) {
  const TempFolder folder;
  write(folder, "train/cat/1.png", "rgb.png");
  write(folder, "train/cat/2.jpg", "rgb.jpg");
  write(folder, "train/ant/x.webp", "lossless.webp");
  write(folder, "train/ant/notes.txt", "rgb.png");
  write(folder, "test/cat/9.png", "grey.png");
  const DatasetOptions options = options_of(folder);
  const Dataset dataset = open_dataset(options);
  ASSERT_EQ(dataset.train->size(), 3);
  EXPECT_EQ(dataset.train->classes(), 2);
  EXPECT_EQ(dataset.train->fields()[0].shape, (Shape{3, 8, 8}));
  ReadBuffers buffers(*dataset.train, 3);
  dataset.train->read(std::vector<int64_t>{0, 1, 2}, buffers.views);
  const auto targets = buffers.views[1].as<int64_t>();
  EXPECT_EQ(std::vector<int64_t>(targets.begin(), targets.end()), (std::vector<int64_t>{0, 1, 1}));
  ByteVector pixels(192);
  preprocess::resize(decode_image(sample("rgb.png")), preprocess::resize_then_crop(17, 24, 8, 8), 8, pixels);
  std::vector<float> expected(192);
  preprocess::load_as<preprocess::ImageNormaliser>(dataset.preprocessing)->apply(pixels, expected);
  const auto got = buffers.views[0].as<float>().subspan(192, 192);
  EXPECT_TRUE(std::equal(got.begin(), got.end(), expected.begin()));
  EXPECT_EQ(dataset.test->size(), 1);
  ReadBuffers one(*dataset.test, 1);
  dataset.test->read(std::vector<int64_t>{0}, one.views);
  EXPECT_EQ(one.views[1].as<int64_t>()[0], 1);
  EXPECT_EQ(probe(options).train_samples, 3);
  EXPECT_EQ(guess_kind(folder.path()), "folder");
}

// As ImageNet lies: a folder for validation, folders in classes, and what programs leave beside the images.
TEST(Folders, ValidationHasItsOwnFolderAndClassesHaveFoldersInThem) {
  const TempFolder folder;
  for (const char* place : {"train/cat/images/1.png", "train/cat/2.jfif", "train/ant/deep/er/3.JPEG"})
    write(folder, place, "rgb.png");
  write(folder, "train/.cache/4.png", "rgb.png");
  folder.write("train/ant/._5.png", "no image");
  DatasetOptions options = options_of(folder);
  options.validation_fraction = 0.4;
  EXPECT_EQ(open_dataset(options).train->size(), 1) << "control: two of the three are held back";
  write(folder, "val/cat/6.png", "grey.png");
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(names_of(dataset), (std::vector<std::string>{"ant", "cat"}));
  ASSERT_EQ(dataset.train->size(), 3);
  ASSERT_EQ(dataset.validation->size(), 1);
  EXPECT_EQ(probe(options).train_samples, 3);
  ReadBuffers one(*dataset.validation, 1);
  dataset.validation->read(std::vector<int64_t>{0}, one.views);
  EXPECT_EQ(one.views[1].as<int64_t>()[0], 1);
  write(folder, "valid/cat/6.png", "grey.png");
  EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr("keep one of the two names"));
  std::filesystem::remove_all(folder / "valid");
  write(folder, "val/dog/6.png", "grey.png");
  EXPECT_THAT(error_of([&] { open_dataset(options); }).what(), HasSubstr("val has a class 'dog'"));
}

TEST(Folders, ImagesThatAreLeftOutAreCounted) {
  const TempFolder folder;
  write(folder, "train/a/1.png", "rgb.png");
  write(folder, "train/a/2.bmp", "rgb.png");
  write(folder, "train/a/3.TIFF", "rgb.png");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(open_dataset(options_of(folder)).train->size(), 1);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("2 images are left out, the first is"));
  std::filesystem::create_directory_symlink("..", folder / "train/a/back");
  EXPECT_THAT(error_of([&] { open_dataset(options_of(folder)); }).what(),
              HasSubstr("a link that leads back"));
}

std::vector<float> inputs_of(const Source& source, std::vector<int64_t> positions = {}) {
  std::vector<int64_t> indices(static_cast<size_t>(source.size()));
  for (size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<int64_t>(i);
  ReadBuffers buffers(source, source.size());
  if (positions.empty()) {
    source.read(indices, buffers.views);
  } else {
    source.read_at(indices, positions, buffers.views);
  }
  const auto all = buffers.views[0].as<float>();
  return {all.begin(), all.end()};
}

// Pixels as the network sees them, of images that a scaling is made for.
std::vector<float> expected_inputs(const DecodedImage& image, const preprocess::Scaling& scaling,
                                   int64_t size, const Preprocessing& fitted) {
  ByteVector pixels(static_cast<size_t>(3 * size * size));
  preprocess::resize(image.pixels, preprocess::shrunk(scaling, 17, 24, image.shrink), size, pixels);
  std::vector<float> expected(pixels.size());
  preprocess::load_as<preprocess::ImageNormaliser>(fitted)->apply(pixels, expected);
  return expected;
}

TEST(Folders, ResizeThenCropOrCropARegionAtRandom) {
  const TempFolder folder;
  write(folder, "train/a/1.jpg", "rgb.jpg");
  write(folder, "test/a/1.jpg", "rgb.jpg");
  DatasetOptions options = options_of(folder);
  options.image_size = 6;
  options.resize_size = 8;
  options.augmentation.resized_crop = true;
  const Dataset dataset = open_dataset(options);
  const DecodedImage half = decode_image(sample("rgb.jpg"), [](int64_t, int64_t) { return Wanted{2}; });
  const auto middle = preprocess::resize_then_crop(17, 24, 8, 6);
  EXPECT_EQ(inputs_of(*dataset.test), expected_inputs(half, middle, 6, dataset.preprocessing));
  EXPECT_EQ(inputs_of(*dataset.train), inputs_of(*dataset.test)) << "read without a position";
  const preprocess::ImageAugmenter augmenter(1, options.augmentation);
  int whole = 0;
  for (int64_t position = 0; position < 20; ++position) {
    const preprocess::Region region = augmenter.region(position, 17, 24);
    const int shrink = std::min(shrink_to(region.height, 6), shrink_to(region.width, 6));
    whole += shrink == 1;
    const DecodedImage image =
        decode_image(sample("rgb.jpg"), [&](int64_t, int64_t) { return Wanted{shrink}; });
    EXPECT_EQ(inputs_of(*dataset.train, {position}),
              expected_inputs(image, {region, 6, 6}, 6, dataset.preprocessing));
  }
  EXPECT_GT(whole, 0);
  EXPECT_LT(whole, 20);
}

// A model that an earlier version has trained goes on to see what it was trained on.
TEST(Folders, EarlierModelsReadImagesAsTheyDid) {
  const TempFolder folder;
  write(folder, "train/a/1.jpg", "rgb.jpg");
  const DatasetOptions options = options_of(folder);
  const Dataset now = open_dataset(options);
  Preprocessing earlier = now.preprocessing;
  ASSERT_EQ(earlier.erase("image_reading"), 1u);
  const Dataset before = open_dataset(options, &earlier);
  EXPECT_EQ(before.preprocessing, earlier);
  const DecodedImage whole = decode_image(sample("rgb.jpg"), {});
  EXPECT_EQ(inputs_of(*before.train),
            expected_inputs(whole, preprocess::rounded_then_cropped(17, 24, 8), 8, earlier));
  EXPECT_NE(inputs_of(*now.train), inputs_of(*before.train)) << "control";
  EXPECT_EQ(open_dataset(options, &now.preprocessing).preprocessing, now.preprocessing);
}

TEST(Folders, DoNotDependOnReadersAndPackAlike) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "set");
  for (int i = 0; i < 12; ++i) {
    const char* const names[] = {"rgb.png", "rgb.jpg", "lossy.webp", "grey.jpg"};
    write(folder, "set/" + std::string(1, static_cast<char>('a' + i % 3)) + "/" + std::to_string(i) + ".png",
          names[i % 4]);
  }
  DatasetOptions options = options_of(folder);
  options.path = folder / "set";
  options.validation_fraction = 0.25;
  const auto bytes = [](const Source& source) {
    ReadBuffers buffers(source, 9);
    source.read(std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}, buffers.views);
    const auto all = buffers.views[0].as<float>();
    return std::vector<float>(all.begin(), all.end());
  };
  options.readers = 1;
  const Dataset one = open_dataset(options);
  options.readers = 4;
  const Dataset four = open_dataset(options);
  EXPECT_EQ(one.preprocessing, four.preprocessing);
  EXPECT_EQ(bytes(*one.train), bytes(*four.train));
  write_pack(four, {.folder = (folder / "pack").string(), .kind = "folder", .threads = 2});
  const Dataset packed = open_dataset({.kind = "pack", .path = folder / "pack"});
  EXPECT_EQ(bytes(*packed.train), bytes(*four.train));
}

TEST(Folders, ClassesKeepTheirNamesAndAreComparedByThem) {
  const TempFolder folder;
  for (const char* set : {"pets", "letters"}) {
    const bool pets = std::string(set) == "pets";
    for (const char* name : {pets ? "cat" : "a", pets ? "dog" : "b"}) {
      for (const char* image : {"1", "2"})
        write(folder, fmt::format("{}/{}/{}.png", set, name, image), "rgb.png");
    }
  }
  DatasetOptions pets = options_of(folder), letters = options_of(folder);
  pets.path = folder / "pets";
  letters.path = folder / "letters";
  const Dataset dataset = open_dataset(pets);
  EXPECT_EQ(names_of(dataset), (std::vector<std::string>{"cat", "dog"}));
  const Dataset again = open_dataset(pets, &dataset.preprocessing);
  EXPECT_EQ(again.preprocessing, dataset.preprocessing);
  const std::string said = "class 0 is 'cat' there and 'a' here";
  EXPECT_THAT(error_of([&] { open_dataset(letters, &dataset.preprocessing); }).what(), HasSubstr(said));

  DatasetOptions mixed{.kind = "mixture", .path = folder.path(), .image_size = 8};
  mixed.mixture = {"one: folder weight=1 path=pets", "two: folder weight=1 path=letters"};
  EXPECT_THAT(error_of([&] { open_dataset(mixed); }).what(), HasSubstr(said));
  mixed.mixture[1] = "two: folder weight=1 path=pets";
  EXPECT_EQ(names_of(open_dataset(mixed)), names_of(dataset));

  write_pack(dataset, {.folder = (folder / "pack").string(), .kind = "folder"});
  const DatasetOptions pack{.kind = "pack", .path = folder / "pack"};
  EXPECT_EQ(open_dataset(pack).preprocessing, dataset.preprocessing);
  Preprocessing other = dataset.preprocessing;
  other[preprocess::kClassNames] = "cat\nwolf";
  EXPECT_THAT(error_of([&] { open_dataset(pack, &other); }).what(),
              HasSubstr("class 1 is 'wolf' there and 'dog' here"));
  other.erase(preprocess::kClassNames);  // as an earlier version wrote it
  EXPECT_EQ(open_dataset(pack, &other).train->classes(), 2);
  EXPECT_EQ(open_dataset(letters, &other).preprocessing, other);
}

TEST(Folders, ReadersHaveAnEffect) {
  const config::Config config = config::parse(
      "[model]\nname = \"mlp\"\n[training]\nsteps = 1\ndataset = \"folder\"\n[data]\nreaders = 3\n",
      "c.toml");
  EXPECT_TRUE(config::ignored_settings(config).empty());
  EXPECT_EQ(dataset_options(config).readers, 3);
}

TEST(Folders, AClassWithoutImagesIsRefused) {
  const TempFolder folder;
  write(folder, "train/a/1.png", "rgb.png");
  std::filesystem::create_directories(folder / "train/b");
  for (const bool probed : {false, true}) {
    const Error error =
        error_of([&] { probed ? (void)probe(options_of(folder)) : (void)open_dataset(options_of(folder)); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("train/b has no .png"));
  }
  std::filesystem::create_directories(folder / "train/\xff\xfe");
  EXPECT_THAT(error_of([&] { open_dataset(options_of(folder)); }).what(), HasSubstr("not UTF-8"));
}

TEST(Folders, BadInputIsNamed) {
  const TempFolder folder;
  EXPECT_THAT(error_of([&] { open_dataset(options_of(folder)); }).what(), HasSubstr("a folder per class"));
  write(folder, "train/a/1.png", "rgb.png");
  write(folder, "test/b/1.png", "rgb.png");
  const Dataset other = open_dataset(options_of(folder));
  EXPECT_THAT(error_of([&] { other.test->size(); }).what(),
              HasSubstr("a class 'b' that the training folder"));
  folder.write("train/a/2.png", "not an image");
  const Error error = error_of([&] { open_dataset(options_of(folder)); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr("2.png"));
  EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("more images")));
  folder.write("train/a/3.png", "not one either");
  const std::string both = error_of([&] { open_dataset(options_of(folder)); }).what();
  EXPECT_THAT(both, HasSubstr("2.png"));
  EXPECT_THAT(both, HasSubstr("; 1 more images cannot be read: "));
  EXPECT_THAT(both, HasSubstr("3.png"));
  DatasetOptions none = options_of(folder);
  none.path = folder / "none";
  EXPECT_EQ(error_of([&] { open_dataset(none); }).code(), ErrorCode::kNotFound);
}

TEST(ImageFit, SaysHowFarItIsAndStops) {
  const TempFolder folder;
  testing::write_images(folder, "train", 300);
  CancelToken cancel;
  uint64_t seen = 0, all = 0;
  DatasetOptions options{.kind = "idx", .path = folder.path()};
  options.test_images.clear();
  options.opening.cancel = &cancel;
  options.opening.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, seen);
    seen = done;
    all = total;
  };
  open_dataset(options);
  EXPECT_EQ(seen, 300u * 12);
  EXPECT_EQ(all, seen);
  cancel.cancel();
  const Error error = error_of([&] { open_dataset(options); });
  EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  EXPECT_THAT(error.what(), HasSubstr("interrupted while the images were read"));
}

}  // namespace
}  // namespace furrow::data
