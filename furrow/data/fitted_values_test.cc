// A run keeps what it has fitted, and says so where it is asked for something else.
#include "furrow/data/fitted_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"
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

}  // namespace
}  // namespace furrow::data
