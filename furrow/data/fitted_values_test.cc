// A run keeps what it has fitted, and says so where it is asked for something else.
#include "furrow/data/fitted_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

TEST(KeptValues, PixelsStayNormalisedOrNot) {
  const TempFolder folder;
  testing::write_images(folder, "train", 60);
  DatasetOptions options{.kind = "idx", .path = folder.path()};
  options.test_images.clear();
  const Preprocessing fitted = open_dataset(options).preprocessing;
  EXPECT_NO_THROW(check_kept(options, fitted));
  DatasetOptions other = options;
  other.normalize = false;
  const Preprocessing plain = open_dataset(other).preprocessing;
  EXPECT_NO_THROW(check_kept(other, plain));
  const Error error = error_of([&] { check_kept(other, fitted); });
  EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
  EXPECT_THAT(error.what(), HasSubstr("normalize = false, but the run goes on with"));
  EXPECT_THAT(error_of([&] { check_kept(options, plain); }).what(), HasSubstr("normalize = true, but"));
  options.kind = "pack";  // whose own values they may be
  EXPECT_NO_THROW(check_kept(options, plain));
}

TEST(KeptValues, ATokenizerStaysWhatItIs) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) text += "low lower ";
  DatasetOptions options{.kind = "text", .path = folder.write("t.txt", text), .context = 4};
  const Preprocessing chars = open_dataset(options).preprocessing;
  EXPECT_NO_THROW(check_kept(options, chars));
  DatasetOptions bytes = options;
  bytes.tokenizer = "byte";
  EXPECT_THAT(error_of([&] { check_kept(bytes, chars); }).what(), HasSubstr("tokenizer = byte, but"));
  DatasetOptions mixed{.kind = "mixture", .path = folder.path(), .tokenizer = "byte"};
  mixed.mixture = {"a: text weight=1 path=t.txt"};
  EXPECT_THROW(check_kept(mixed, chars), Error);
  bytes.kind = "pack";  // which has a tokenizer of its own
  EXPECT_NO_THROW(check_kept(bytes, chars));

  options.tokenizer = "gpt2";
  options.tokenizer_path = folder.write("vocab.bpe", "l o\n");
  const Preprocessing merges = open_dataset(options).preprocessing;
  EXPECT_NO_THROW(check_kept(options, merges));
  folder.write("vocab.bpe", "l o\nlo w\n");
  EXPECT_THAT(error_of([&] { check_kept(options, merges); }).what(), HasSubstr("tokenizer_path = "));
  std::filesystem::remove(folder / "vocab.bpe");
  EXPECT_NO_THROW(check_kept(options, merges)) << "moved since";
}

TEST(KeptValues, OtherDataAreSeen) {
  const TempFolder folder;
  const std::string run = folder.path().string(), text = "one two three four five six seven eight nine ten ";
  DatasetOptions options{.kind = "text", .path = folder.write("t.txt", text), .context = 4};
  const auto now = [&] {
    const Preprocessing kept = *read_fitted(run);
    return changed_since(run, open_dataset(options, &kept));
  };
  EXPECT_EQ(changed_since(run, open_dataset(options)), std::nullopt) << "nothing was kept";
  write_fitted(run, open_dataset(options), options);
  EXPECT_EQ(*read_fitted(run), open_dataset(options).preprocessing) << "what is fitted is told alone";
  EXPECT_EQ(now(), std::nullopt);
  folder.write("t.txt", text.substr(0, 40));
  EXPECT_THAT(now(), ::testing::Optional(std::string("training split: 45 samples then, 36 samples now")));
  std::string turned = text;
  std::swap(turned[0], turned[1]);
  folder.write("t.txt", turned);
  EXPECT_THAT(now().value_or(""), HasSubstr("training sample 0: "));
  write_file_atomic(run + "/preprocessing.json", to_json({{"kind", "char"}}));
  EXPECT_EQ(changed_since(run, open_dataset(options)), std::nullopt) << "of an earlier version";
}

TEST(KeptValues, ATableKeepsItsColumnsAndRules) {
  const TempFolder folder;
  folder.write("t.csv", "a,b,y\n1,2,p\n3,4,q\n");
  DatasetOptions options{.kind = "table", .path = folder / "t.csv"};
  options.table_rules.target = "y";
  write_fitted(folder.path().string(), open_dataset(options), options);
  const Preprocessing kept = *read_fitted(folder.path().string());
  EXPECT_NO_THROW(check_kept(options, kept));
  EXPECT_EQ(open_dataset(options, &kept).preprocessing, open_dataset(options).preprocessing);
  const std::pair<const char*, std::function<void(DatasetOptions&)>> changes[] = {
      {"data.target = b", [](auto& o) { o.table_rules.target = std::string("b"); }},
      {"training.loss = mse", [](auto& o) { o.table_rules.number_target = true; }},
      {"data.train_table = u", [](auto& o) { o.table_train = std::string("u"); }},
      {"data.column_names = [\"a\"]", [](auto& o) { o.table_format.names = {"a"}; }},
      {"data.delimiter = \";\"", [](auto& o) { o.table_format.delimiter = ';'; }},
      {"data.decimal = \",\"", [](auto& o) { o.table_rules.decimal = ','; }},
      {"data.ignore_columns = [\"b\"]", [](auto& o) { o.table_format.ignored = {"b"}; }},
      {"data.categorical_columns = [\"a\", \"b\"]", [](auto& o) { o.table_rules.categorical = {"a", "b"}; }},
      {"data.numeric_columns = [\"a\"]", [](auto& o) { o.table_rules.numeric = {"a"}; }},
      {"data.date_columns = [\"a\"]", [](auto& o) { o.table_rules.dates = {"a"}; }},
      {"data.missing_values = []", [](auto& o) { o.table_rules.missing = {}; }},
      {"data.trim_characters = \"\"", [](auto& o) { o.table_rules.trim = std::string(); }},
  };
  for (const auto& [said, change] : changes) {
    DatasetOptions other = options;
    change(other);
    const Error error = error_of([&] { check_kept(other, kept); });
    EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
    EXPECT_EQ(std::string(error.what()).find(std::string(said) + ", but the run goes on with"), 0u)
        << error.what();
  }
  DatasetOptions elsewhere = options;
  elsewhere.path = "moved.csv";
  elsewhere.table_rules.ignore_unseen = true;
  EXPECT_NO_THROW(check_kept(elsewhere, kept));
  // Earlier versions kept no keys: the target is that of the fitted values.
  const Preprocessing earlier = open_dataset(options).preprocessing;
  elsewhere.table_rules.target = "b";
  EXPECT_THAT(error_of([&] { check_kept(elsewhere, earlier); }).what(), HasSubstr("data.target = b, but"));
}

}  // namespace
}  // namespace furrow::data
