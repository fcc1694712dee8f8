// Packs of mixtures: each set as it is, so that every epoch, window and length of samples is that of the sets
// themselves.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/data/dataset.h"
#include "furrow/data/mixture.h"
#include "furrow/data/pack.h"
#include "furrow/data/pack_work.h"
#include "furrow/data/records.h"
#include "furrow/data/test_files.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

using testing::bytes_of_batches;
using testing::ByteVector;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

std::string made_up_text(int length, int step) {
  std::string text;
  for (int i = 0; i < length; ++i) text.push_back(static_cast<char>('a' + i * i * step % 23));
  return text;
}

struct Case {
  std::string name;
  DatasetOptions options;
};

DatasetOptions mixture_of(const TempFolder& folder, std::vector<std::string> sets) {
  DatasetOptions options{.kind = "mixture", .path = folder.path(), .validation_fraction = 0.1, .seed = 3};
  options.context = 16;
  options.mixture = std::move(sets);
  return options;
}

// Texts as streams, cut anew in each epoch and as documents; images with an augmentation.
std::vector<Case> cases(const TempFolder& folder) {
  folder.write("one.txt", made_up_text(3000, 1));
  folder.write("two.txt", made_up_text(1200, 5));
  for (const auto& [name, count] : {std::pair{"a", 70u}, {"b", 30u}}) {
    std::filesystem::create_directories(folder / name);
    testing::write_images(folder, fmt::format("{}/train", name), count);
    testing::write_images(folder, fmt::format("{}/t10k", name), 4);
  }
  const std::vector<std::string> texts{"one: text weight=3 path=one.txt",
                                       "the 2nd: text weight=1.5 path=two.txt"};
  std::vector<Case> all;
  all.push_back({"texts", mixture_of(folder, texts)});
  all.back().options.test_fraction = 0.1;
  all.push_back({"cut", all.back().options});
  all.back().options.disjoint_windows = true;
  all.push_back({"documents", all[0].options});
  all.back().options.document_separator = "a";
  all.push_back({"images", mixture_of(folder, {"a: idx weight=1 path=a", "b: idx weight=2 path=b"})});
  all.back().options.augmentation = {1, true};
  return all;
}

PackRequest request_of(const TempFolder& folder, const Case& set) {
  return {.folder = (folder / (set.name + ".pack")).string(),
          .kind = "mixture",
          .threads = 2,
          .shard_bytes = 1000};
}

DatasetOptions pack_options(const TempFolder& folder, const Case& set, uint64_t budget = 0, int readers = 0) {
  DatasetOptions options = set.options;
  options.kind = "pack";
  options.path = folder / (set.name + ".pack");
  options.mixture = {};
  options.memory_budget = budget;
  options.readers = readers;
  return options;
}

void expect_equal(const Dataset& plain, const Dataset& packed) {
  EXPECT_EQ(packed.preprocessing, plain.preprocessing);
  for (const Split split : {Split::kTrain, Split::kValidation, Split::kTest}) {
    const Source *const a = find_split(plain, split), *const b = find_split(packed, split);
    ASSERT_EQ(a == nullptr, b == nullptr);
    if (a == nullptr) continue;
    ASSERT_EQ(a->size(), b->size());
    EXPECT_EQ(a->fields(), b->fields());
    EXPECT_EQ(a->classes(), b->classes());
    EXPECT_EQ(bytes_of_batches(*a, 3 * a->size()), bytes_of_batches(*b, 3 * b->size()));
  }
}

TEST(PackedMixtures, GiveWhatTheirSetsGive) {
  const TempFolder folder;
  for (const Case& set : cases(folder)) {
    SCOPED_TRACE(set.name);
    const Dataset plain = open_dataset(set.options);
    const PackSummary summary = write_pack(plain, request_of(folder, set));
    EXPECT_GT(summary.shards, 4);
    for (const auto& [budget, readers] : {std::pair<uint64_t, int>{0, 0}, {1, 0}, {1, 1}, {0, 3}}) {
      const DatasetOptions options = pack_options(folder, set, budget, readers);
      expect_equal(plain, open_dataset(options));
      EXPECT_EQ(probe(options).train_samples, plain.train->size());
      EXPECT_EQ(probe(options).fields, plain.train->fields());
    }
  }
}

// What is of the training and not of the pack: seed, shuffling, length of a sample.
TEST(PackedMixtures, FollowTheConfigurationOfTheTraining) {
  const TempFolder folder;
  for (const Case& set : cases(folder)) {
    SCOPED_TRACE(set.name);
    write_pack(open_dataset(set.options), request_of(folder, set));
    Case other = set;
    other.options.shuffle = false;
    expect_equal(open_dataset(other.options), open_dataset(pack_options(folder, other)));
    if (set.name == "images") continue;  // another seed carves other images
    other = set;
    other.options.seed = 9;
    other.options.context = 5;
    const Dataset plain = open_dataset(other.options);
    expect_equal(plain, open_dataset(pack_options(folder, other)));
    const DatasetOptions control = pack_options(folder, {set.name, set.options});
    EXPECT_NE(bytes_of_batches(*open_dataset(control).train, 100), bytes_of_batches(*plain.train, 100))
        << "control";
  }
}

TEST(PackedMixtures, AreAsLargeAsTheirTokens) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  const PackSummary summary = write_pack(open_dataset(set.options), request_of(folder, set));
  EXPECT_EQ(summary.bytes, 4200u);  // a byte a character
  const storage::PackInfo info = storage::read_pack(request_of(folder, set).folder);
  EXPECT_EQ(info.layout, "mixture");
  ASSERT_EQ(info.parts.size(), 2u);
  EXPECT_EQ(info.parts[1], (storage::PackPart{"the 2nd", 1.5, "tokens"}));
  EXPECT_EQ(info.find("train.0")->records(), 2400);
  EXPECT_EQ(info.find("validation.1")->records(), 120);
}

TEST(PackedMixtures, OfAPackAreTheSamePack) {
  const TempFolder folder;
  for (const Case& set : cases(folder)) {
    const PackRequest request = request_of(folder, set);
    write_pack(open_dataset(set.options), request);
    PackRequest again = request;
    again.folder += "-2";
    write_pack(open_dataset(pack_options(folder, set)), again);
    EXPECT_EQ(read_file(request.folder + "/pack.json"), read_file(again.folder + "/pack.json"));
    for (const auto& entry : std::filesystem::directory_iterator(request.folder))
      EXPECT_EQ(read_file(entry.path()), read_file(again.folder + "/" + entry.path().filename().string()));
  }
}

TEST(PackedMixtures, GoOnWhereTheyWereInterrupted) {
  const TempFolder folder;
  const Case set = cases(folder)[2];
  const Dataset plain = open_dataset(set.options);
  PackRequest request = request_of(folder, set);
  request.fingerprint = fingerprint_of(set.options);
  arm_failpoints("pack.after_shard=error@3");
  EXPECT_THROW(write_pack(plain, request), Error);
  arm_failpoints("");
  EXPECT_FALSE(path_exists(request.folder));
  EXPECT_GE(write_pack(plain, request).kept, 2);
  expect_equal(plain, open_dataset(pack_options(folder, set)));
}

// What another carving, another set or another order of them left is not kept.
TEST(PackedMixtures, HaveAFingerprintOfAllTheyAreMadeOf) {
  const TempFolder folder;
  const DatasetOptions options = cases(folder)[0].options;
  const std::string fingerprint = fingerprint_of(options);
  EXPECT_EQ(fingerprint_of(options), fingerprint);
  const auto changed = [&](const auto& change) {
    DatasetOptions other = options;
    change(other);
    return fingerprint_of(other) != fingerprint;
  };
  EXPECT_TRUE(changed([](auto& other) { other.seed = 4; }));
  EXPECT_TRUE(changed([](auto& other) { other.document_separator = "b"; }));
  EXPECT_TRUE(changed([](auto& other) { other.test_fraction = 0.2; }));
  EXPECT_TRUE(changed([](auto& other) { other.resize_size = 9; }));
  EXPECT_TRUE(changed([](auto& other) { std::swap(other.mixture[0], other.mixture[1]); }));
  EXPECT_FALSE(changed([](auto& other) { other.readers = 7; }));
  const auto elsewhere = [&](DatasetOptions other) {
    for (std::string& set : other.mixture) set.insert(set.find("path=") + 5, folder.path().string() + "/");
    other.path.clear();
    return other;
  };
  const std::string absolute = fingerprint_of(elsewhere(options));
  EXPECT_EQ(sources_of(elsewhere(options)), sources_of(options));
  folder.write("two.txt", made_up_text(1201, 5));
  EXPECT_NE(fingerprint_of(options), fingerprint);
  EXPECT_NE(fingerprint_of(elsewhere(options)), absolute);
}

TEST(PackedMixtures, KeepNoShardOfAnotherCarving) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "set");
  folder.write("set/train-images-idx3-ubyte", testing::idx_bytes(8, {90, 1, 2}, ByteVector(180, 7)));
  ByteVector labels;
  for (uint8_t i = 0; i < 90; ++i) labels.push_back(i / 30);
  folder.write("set/train-labels-idx1-ubyte", testing::idx_bytes(8, {90}, labels));
  DatasetOptions options{.kind = "idx", .path = folder / "set", .validation_fraction = 0.5, .seed = 1};
  options.test_images.clear();
  const auto pack = [&] {
    const Dataset dataset = open_dataset(options);
    PackRequest request{.folder = (folder / "pack").string(), .kind = "idx", .shard_bytes = 40};
    request.fingerprint = fingerprint_of(options);
    return write_pack(dataset, request).kept;
  };
  const auto interrupt = [&] {
    arm_failpoints("pack.before_manifest=error");
    EXPECT_THROW(pack(), Error);
    arm_failpoints("");
  };
  interrupt();
  EXPECT_GT(pack(), 0) << "control";
  remove_all((folder / "pack").string());
  interrupt();
  options.seed = 2;  // other images, as many, of the same mean
  EXPECT_EQ(pack(), 0);
}

TEST(PackedMixtures, ThatMakeNoSenseAreRefused) {
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
  refused([](auto& info) { info.parts.clear(); }, "its layout is mixture, with 0 parts");
  refused([](auto& info) { info.layout = "tokens"; }, "its layout is tokens, with 2 parts");
  refused([](auto& info) { info.parts.push_back({"c", 1, "tokens"}); }, "no split 'train.2'");
  refused([](auto& info) { info.parts[1].layout = "mixture"; }, "unknown layout of the pack 'mixture'");
  refused([](auto& info) { info.parts[1].layout = "samples"; }, "samples without input and target");
  refused([](auto& info) { info.parts[1].layout = "documents"; }, "no split train.1.ends");
  refused([](auto& info) { info.parts[0].weight = 1e-9; }, "less than one sample");
  refused([](auto& info) { info.preprocessing["classes"] = "1000"; }, "other fields");
  DatasetOptions long_samples = pack_options(folder, set);
  long_samples.context = 150;
  storage::write_pack(request.folder, good);
  EXPECT_THAT(error_of([&] { open_dataset(long_samples); }).what(),
              HasSubstr("set 'the 2nd': the validation split has 120 tokens"));
  EXPECT_THAT(
      error_of([&] { open_dataset(mixture_of(folder, {"m: pack weight=1 path=texts.pack"})); }).what(),
      HasSubstr("'m' is a mixture itself: list its sets"));
}

// A byte changed anywhere in a small pack: refused, or what is read is what was written.
TEST(PackedMixtures, DamageIsNeverRead) {
  const TempFolder folder;
  const Case set = cases(folder)[2];
  PackRequest request = request_of(folder, set);
  request.shard_bytes = 0;
  write_pack(open_dataset(set.options), request);
  const Dataset whole = open_dataset(pack_options(folder, set));
  const ByteVector expected = bytes_of_batches(*whole.train, 40, false);
  for (const char* file : {"pack.json", "train.0-00000.shard", "train.1.ends-00000.shard"}) {
    const std::string name = set.name + ".pack/" + file, bytes = read_file((folder / name).string());
    int refused = 0;
    for (size_t at = 0; at < bytes.size(); at += 1 + bytes.size() / 60) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      folder.write(name, damaged);
      try {
        const Dataset packed = open_dataset(pack_options(folder, set));
        EXPECT_EQ(bytes_of_batches(*packed.train, 40, false), expected) << file << " " << at;
      } catch (const Error& error) {
        EXPECT_NE(error.code(), ErrorCode::kInternal) << error.what();
        EXPECT_THAT(error.what(), HasSubstr(request.folder));
        ++refused;
      }
    }
    EXPECT_GT(refused, 40) << file;
    folder.write(name, bytes.substr(0, bytes.size() / 2));
    EXPECT_EQ(error_of([&] { open_dataset(pack_options(folder, set)); }).code(), ErrorCode::kDataLoss);
    folder.write(name, bytes);
  }
}

// Packs of mixtures as earlier versions wrote them: samples of the first epoch.
TEST(PackedMixtures, OfEarlierVersionsAreRead) {
  const TempFolder folder;
  const Case set = cases(folder)[0];
  Dataset plain = open_dataset(set.options);
  plain.sets.clear();
  write_pack(plain, request_of(folder, set));
  EXPECT_EQ(storage::read_pack(request_of(folder, set).folder).layout, "samples");
  const Dataset packed = open_dataset(pack_options(folder, set));
  ASSERT_EQ(packed.train->size(), plain.train->size());
  EXPECT_EQ(bytes_of_batches(*packed.train, 100, false), bytes_of_batches(*plain.train, 100, false));
}

}  // namespace
}  // namespace furrow::data
