// Mixtures: exact shares of every epoch, each set in its own order, a pure function of the position.
#include "furrow/data/mixture.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "furrow/base/error.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/data/loader.h"
#include "furrow/data/pack.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

// Sample i is the number set * 1000 + i, twice; read_at adds the position to the target.
class Numbers : public Source {
 public:
  Numbers(int64_t set, int64_t size) : set_(set), size_(size) {}
  int64_t size() const override { return size_; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 7; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override {
    check_read(*this, indices, fields);
    for (size_t row = 0; row < indices.size(); ++row)
      for (const ArrayView& field : fields) field.as<int64_t>()[row] = set_ * 1000 + indices[row];
  }
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override {
    read(indices, fields);
    for (size_t row = 0; row < positions.size(); ++row) fields[1].as<int64_t>()[row] = positions[row];
  }

 private:
  int64_t set_, size_;
  std::vector<Field> fields_ = {{"input", DType::kI64, {}}, {"target", DType::kI64, {}}};
};

struct PartOf {
  std::string name;
  int64_t set, size, share;
};

MixtureSource mixture_of(const std::vector<PartOf>& parts, bool shuffle = true) {
  std::vector<MixtureSource::Part> all;
  for (const PartOf& part : parts)
    all.push_back({part.name, std::make_unique<Numbers>(part.set, part.size), part.share});
  return MixtureSource(std::move(all), 5, shuffle);
}

// What a loader gives for positions [begin, end), by position.
std::vector<int64_t> numbers(const Source& source, int64_t begin, int64_t end, LoaderOptions options = {}) {
  if (options.sizes.empty()) options.sizes = {4, 3};
  options.position = begin;
  options.end = end;
  Loader loader(source, SampleOrder(11, source.size(), true), options);
  std::vector<int64_t> all;
  while (const Batch* batch = loader.next()) {
    const auto input = batch->arrays[0].as<int64_t>(), target = batch->arrays[1].as<int64_t>();
    for (size_t row = 0; row < input.size(); ++row) {
      EXPECT_EQ(target[row], batch->sample_ids[row]);  // transforms see the position in the mixture
      all.push_back(input[row]);
    }
    loader.release();
  }
  return all;
}

std::vector<int64_t> of_set(const std::vector<int64_t>& numbers, int64_t set) {
  std::vector<int64_t> own;
  for (const int64_t number : numbers)
    if (number / 1000 == set) own.push_back(number % 1000);
  return own;
}

TEST(Mixture, SharesAreExact) {
  EXPECT_THAT(shares_of(std::vector<double>{1, 1, 1}, 10), ElementsAre(4, 3, 3));
  EXPECT_THAT(shares_of(std::vector<double>{3, 1}, 8), ElementsAre(6, 2));
  EXPECT_THAT(shares_of(std::vector<double>{0.1, 0.2, 0.7}, 10), ElementsAre(1, 2, 7));
  EXPECT_THAT(shares_of(std::vector<double>{1e-9, 1}, 10), ElementsAre(0, 10));
}

TEST(Mixture, EveryEpochHasItsShares) {
  const MixtureSource mixture = mixture_of({{"a", 1, 20, 30}, {"b", 2, 50, 10}, {"c", 3, 5, 5}});
  ASSERT_EQ(mixture.size(), 45);
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    const auto all = numbers(mixture, epoch * 45, (epoch + 1) * 45);
    EXPECT_EQ(of_set(all, 1).size(), 30u);
    EXPECT_EQ(of_set(all, 2).size(), 10u);
    EXPECT_EQ(of_set(all, 3).size(), 5u);
    EXPECT_FALSE(std::is_sorted(all.begin(), all.end()));
  }
}

// Ten of fifty samples an epoch: five epochs see each once; thirty of twenty: two epochs see each three
// times.
TEST(Mixture, ASetGoesThroughAllItsSamples) {
  const MixtureSource mixture = mixture_of({{"a", 1, 20, 30}, {"b", 2, 50, 10}});
  const auto all = numbers(mixture, 0, 5 * 40);
  const auto b = of_set(all, 2);
  EXPECT_EQ(std::set<int64_t>(b.begin(), b.end()).size(), 50u);
  std::map<int64_t, int> seen;
  for (const int64_t index : of_set(numbers(mixture, 0, 2 * 40), 1)) ++seen[index];
  EXPECT_EQ(seen.size(), 20u);
  for (const auto& [index, times] : seen) EXPECT_EQ(times, 3) << index;
}

// An epoch draws the same samples of a set whatever the other sets are called and hold.
TEST(Mixture, OtherSetsDoNotChangeTheOrderWithinASet) {
  const auto drawn = [](const MixtureSource& mixture, int64_t epoch, int64_t set) {
    const int64_t size = mixture.size();
    const auto own = of_set(numbers(mixture, epoch * size, (epoch + 1) * size), set);
    return std::set<int64_t>(own.begin(), own.end());
  };
  const MixtureSource one = mixture_of({{"a", 1, 80, 10}, {"b", 2, 50, 10}});
  const MixtureSource other = mixture_of({{"c", 3, 9, 30}, {"a", 1, 80, 10}});
  const MixtureSource renamed = mixture_of({{"x", 1, 80, 10}, {"b", 2, 50, 10}});
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    EXPECT_EQ(drawn(one, epoch, 1), drawn(other, epoch, 1));
    EXPECT_NE(drawn(one, epoch, 1), drawn(renamed, epoch, 1));  // control
  }
  EXPECT_NE(drawn(one, 0, 1), drawn(one, 1, 1));
}

TEST(Mixture, IsAFunctionOfThePosition) {
  const MixtureSource mixture = mixture_of({{"a", 1, 20, 30}, {"b", 2, 50, 10}, {"c", 3, 5, 5}});
  const auto all = numbers(mixture, 0, 128);
  for (const int64_t begin : {1, 44, 45, 46, 100}) {
    const auto rest = numbers(mixture, begin, 128);
    EXPECT_EQ(rest, std::vector<int64_t>(all.begin() + begin, all.end())) << begin;
  }
  // Two ranks that take every other microbatch of four samples.
  std::vector<int64_t> together(all.size());
  for (int64_t rank = 0; rank < 2; ++rank) {
    const auto share = numbers(mixture, 0, 128, {.sizes = {4}, .offsets = {rank * 4}, .stride = 8});
    for (size_t i = 0; i < share.size(); ++i)
      together[i / 4 * 8 + static_cast<size_t>(rank) * 4 + i % 4] = share[i];
  }
  EXPECT_EQ(together, all);
}

TEST(Mixture, WithoutShufflingASetComesInItsOwnOrder) {
  const MixtureSource mixture = mixture_of({{"a", 1, 20, 3}, {"b", 2, 50, 2}}, false);
  ReadBuffers buffers(mixture, 5);
  mixture.read_at(std::vector<int64_t>{0, 1, 2, 3, 4}, std::vector<int64_t>{5, 6, 7, 8, 9}, buffers.views);
  const auto input = buffers.views[0].as<int64_t>();
  EXPECT_THAT(std::vector<int64_t>(input.begin(), input.end()), ElementsAre(1003, 1004, 1005, 2002, 2003));
}

std::string text_of(char first, int count, int step) {
  std::string text;
  for (int i = 0; i < count; ++i) text.push_back(static_cast<char>(first + i * step % 17));
  return text;
}

DatasetOptions mixed(const TempFolder& folder, std::vector<std::string> sets) {
  DatasetOptions options{.kind = "mixture", .path = folder.path(), .context = 8};
  options.mixture = std::move(sets);
  options.validation_fraction = 0.1;
  return options;
}

TEST(Mixture, OfTextsSharesOneAlphabetAndJoinsWhatIsHeldBack) {
  const TempFolder folder;
  folder.write("small.txt", text_of('a', 500, 3));
  folder.write("big letters.txt", text_of('A', 900, 5));
  const Dataset dataset = open_dataset(
      mixed(folder, {"small: text weight=3 path=small.txt", "big: text weight=1 path=big letters.txt"}));
  EXPECT_EQ(dataset.train->classes(), 34);
  EXPECT_EQ(dataset.preprocessing.at("classes"), "34");
  EXPECT_EQ(dataset.train->size(), (450 - 8) + (810 - 8));
  EXPECT_EQ(dataset.validation->size(), (50 - 1) / 8 + (90 - 1) / 8);
  EXPECT_EQ(dataset.test, nullptr);
  ReadBuffers buffers(*dataset.train, 1);
  int64_t small = 0;
  for (int64_t i = 0; i < dataset.train->size(); ++i) {
    dataset.train->read(std::vector<int64_t>{i}, buffers.views);
    small += buffers.views[0].as<int64_t>()[0] >= 17;  // capitals come first
  }
  EXPECT_EQ(small, dataset.train->size() * 3 / 4);
  ReadBuffers all(*dataset.validation, 2);
  dataset.validation->read(std::vector<int64_t>{0, dataset.validation->size() - 1}, all.views);
  EXPECT_GE(all.views[0].as<int64_t>()[0], 17);
  EXPECT_LT(all.views[0].as<int64_t>()[8], 17);
}

// A mixture of packs, mapped, or streamed because together they are above the budget, is that of their
// sources.
TEST(Mixture, OfPacksGivesTheSameBits) {
  const TempFolder folder;
  std::vector<std::string> sources, packs;
  for (const auto& [name, count] : {std::pair{"a", 70u}, {"b", 30u}}) {
    std::filesystem::create_directories(folder / name);
    testing::write_images(folder, fmt::format("{}/train", name), count);
    testing::write_images(folder, std::string(name) + "/t10k", 4);
    DatasetOptions options{.kind = "idx", .path = folder / name, .validation_fraction = 0.1};
    write_pack(open_dataset(options),
               {.folder = (folder / (std::string(name) + ".pack")).string(), .kind = "idx"});
    sources.push_back(std::string(name) + ": idx weight=1 path=" + name);
    packs.push_back(std::string(name) + ": pack weight=1 path=" + name + ".pack");
  }
  const auto bytes = [&](const std::vector<std::string>& sets, uint64_t budget) {
    DatasetOptions options = mixed(folder, sets);
    options.memory_budget = budget;
    options.augmentation = {1, true};
    const Dataset dataset = open_dataset(options);
    Loader loader(*dataset.train, SampleOrder(7, dataset.train->size(), true), {.sizes = {9}, .end = 180});
    std::vector<std::byte> all;
    while (const Batch* batch = loader.next()) {
      for (const ArrayView& view : batch->arrays) all.insert(all.end(), view.bytes.begin(), view.bytes.end());
      loader.release();
    }
    return all;
  };
  const auto want = bytes(sources, 0);
  EXPECT_EQ(bytes(packs, 0), want);
  EXPECT_EQ(bytes(packs, 1000), want);              // 70 records of 16 bytes are above it
  EXPECT_NE(bytes({packs[1], packs[0]}, 0), want);  // control: other values were fitted
}

std::string error_of(const DatasetOptions& options) {
  try {
    open_dataset(options);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "no error";
}

TEST(Mixture, SaysWhatIsWrongInOneLine) {
  const TempFolder folder;
  folder.write("a.txt", text_of('a', 300, 3));
  folder.write("empty.txt", "");
  testing::write_images(folder, "train", 30);
  testing::write_images(folder, "t10k", 3);
  const std::string a = "a: text weight=1 path=a.txt";
  for (const auto& [sets, said] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{}, "no set is listed"},
           {{"a text weight=1 path=a.txt"}, "write \"name: kind weight=NUMBER path=PATH\""},
           {{"a: text weight=1"}, "write \"name: kind"},
           {{"a: text path=a.txt"}, "write \"name: kind"},
           {{"a: txt weight=1 path=a.txt"}, "text"},
           {{"a: mixture weight=1 path=a.txt"}, "unknown kind 'mixture'"},
           {{"a: text weight=0 path=a.txt"}, "weight 0 is no number above 0"},
           {{"a: text weight=-2 path=a.txt"}, "weight -2 is no number above 0"},
           {{"a: text weight=nan path=a.txt"}, "weight nan is no number above 0"},
           {{"a: text weight=much path=a.txt"}, "weight much is no number above 0"},
           {{a, "b: text weight=1e-9 path=a.txt"}, "is less than one sample"},
           {{a, a}, "two sets are called 'a'"},
           {{a, "b: text weight=1 path=none.txt"}, "none.txt"},
           {{a, "b: text weight=1 path=empty.txt"}, "empty.txt is empty"},
           {{a, "b: idx weight=1 path=."}, "b"}}) {
    EXPECT_THAT(error_of(mixed(folder, sets)), HasSubstr(said));
  }
}

TEST(Mixture, RefusesPacksOfAnotherVocabulary) {
  const TempFolder folder;
  folder.write("a.txt", text_of('a', 500, 3));
  folder.write("b.txt", text_of('c', 500, 3));
  std::vector<std::string> packs;
  for (const char* name : {"a", "b"}) {
    const DatasetOptions options{.kind = "text", .path = folder / (std::string(name) + ".txt"), .context = 8};
    write_pack(open_dataset(options), {.folder = (folder / name).string(), .kind = "text"});
    packs.push_back(std::string(name) + ": pack weight=1 path=" + name);
  }
  EXPECT_THAT(error_of(mixed(folder, packs)), HasSubstr("another vocabulary"));
}

TEST(Mixture, IsConfigured) {
  const TempFolder folder;
  folder.write("a.txt", text_of('a', 300, 3));
  const std::string text = fmt::format(
      "[model]\nname = \"lstm\"\n[training]\nsteps = 1\ndataset = \"mixture\"\nseq_len = 8\n[data]\nmixture "
      "= "
      "[\"a: text weight=1 path={}\"]\n",
      (folder / "a.txt").string());
  const config::Config config = config::parse(text, "c.toml");
  EXPECT_TRUE(config::ignored_settings(config).empty());
  EXPECT_EQ(probe(config).train_samples, 270 - 8);
  const config::Config disjoint =
      config::parse(text + "windows = \"disjoint\"\nvalidation_fraction = 0\n", "c.toml");
  EXPECT_TRUE(config::ignored_settings(disjoint).empty());
  EXPECT_LT(probe(disjoint).train_samples, 300 / 8 + 1);  // each token once
}

}  // namespace
}  // namespace furrow::data
