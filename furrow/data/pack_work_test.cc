// The folder of a pack while it is written: whose leftovers are kept, and one writer at a time.
#include "furrow/data/pack_work.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/data/pack.h"
#include "furrow/data/test_files.h"
#include "furrow/data/test_packs.h"
#include "furrow/data/token_spool.h"

namespace furrow::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

TEST(PackWork, KeepsWhatIsOfTheSameDataAlone) {
  const TempFolder folder;
  const std::string pack = (folder / "pack").string(), partial = pack + ".partial";
  const auto work = [&](const std::string& fingerprint) {
    return std::make_unique<PackWork>(pack, fingerprint);
  };
  EXPECT_EQ(work("a")->folder(), partial);
  EXPECT_FALSE(path_exists(partial)) << "nothing came of it";
  const auto leave = [&](const std::string& fingerprint) {
    const auto held = work(fingerprint);
    folder.write("pack.partial/text-x.tokens", "tokens");
    folder.write("pack.partial/train-00000.shard", "records");
  };
  leave("a");
  work("a");
  EXPECT_TRUE(path_exists(partial + "/text-x.tokens") && path_exists(partial + "/train-00000.shard"));
  work("b");
  EXPECT_FALSE(path_exists(partial));
  // What an earlier version left says itself whose it is (packing.json).
  make_directories(partial);
  folder.write("pack.partial/packing.json", "{}");
  work("a");
  EXPECT_TRUE(path_exists(partial + "/packing.json"));
  make_directories(pack);
  EXPECT_EQ(error_of([&] { work("a"); }).code(), ErrorCode::kAlreadyExists);
}

TEST(PackWork, HasOneWriterAtATime) {
  const TempFolder folder;
  const std::string pack = (folder / "pack").string();
  auto first = std::make_unique<PackWork>(pack, "a");
  const Error error = error_of([&] { PackWork(pack + "/", "b"); });
  EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  EXPECT_THAT(error.what(), HasSubstr("another process is writing"));
  PackWork((folder / "other").string(), "a");
  first.reset();
  PackWork(pack, "b");
}

TEST(PackWork, APackLiesOutsideOfItsSource) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "set/more");
  std::filesystem::create_directories(folder / "setting");
  std::filesystem::create_directory_symlink(folder / "set", folder / "link");
  const DatasetOptions options{.kind = "idx", .path = folder / "set"};
  for (const char* inside :
       {"set/pack", "set/more/pack", "link/pack", "setting/../set/pack", "set/none/pack/"}) {
    const Error error = error_of([&] { check_apart((folder / inside).string(), options); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << inside;
    EXPECT_THAT(error.what(), HasSubstr("/set.pack")) << "the remedy";
  }
  for (const char* outside : {"pack", "set.pack", "setting/pack"})
    EXPECT_NO_THROW(check_apart((folder / outside).string(), options)) << outside;
  folder.write("t.txt", "a text");
  EXPECT_NO_THROW(check_apart((folder / "pack").string(), {.kind = "text", .path = folder / "t.txt"}));
  DatasetOptions mixed{.kind = "mixture", .path = folder.path()};
  mixed.mixture = {"a: text weight=1 path=t.txt", "b: idx weight=1 path=set"};
  EXPECT_NO_THROW(check_apart((folder / "pack").string(), mixed));
  EXPECT_THAT(error_of([&] { check_apart((folder / "set/pack").string(), mixed); }).what(),
              HasSubstr("made of"));
}

// The whole way: interrupted while it is tokenised, while shards are written, just before the end.
TEST(PackWork, AnInterruptedTextGoesOn) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 20000; ++i) text.push_back(static_cast<char>('a' + i * i % 23));
  DatasetOptions options{.kind = "text", .path = folder.write("t.txt", text), .context = 16};
  options.opening = {.threads = 1, .part_bytes = 500};
  const auto pack = [&](const std::string& name) {
    PackRequest request{.folder = (folder / name).string(), .kind = "text"};
    request.fingerprint = fingerprint_of(options);
    request.shard_bytes = 4096;
    return testing::pack_set(options, request);
  };
  pack("whole");
  for (const char* place :
       {"text.before_mark=enospc@3", "pack.before_shard=error", "pack.after_shard=error@2",
        "pack.before_manifest=error", "pack.before_rename=enospc"}) {
    SCOPED_TRACE(place);
    arm_failpoints(place);
    EXPECT_THROW(pack("pack"), Error);
    EXPECT_TRUE(path_exists(folder / "pack.partial"));
    const bool tokenised = std::string(place).starts_with("pack.") && !std::string(place).ends_with("enospc");
    arm_failpoints(tokenised ? "text.before_mark=error" : "");  // nothing of it is tokenised again
    pack("pack");
    arm_failpoints("");
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder / "whole")) {
      names.push_back(entry.path().filename().string());
      EXPECT_EQ(furrow::read_file(entry.path().string()),
                furrow::read_file((folder / "pack" / names.back()).string()));
    }
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "pack"), {}),
              static_cast<long>(names.size()));
    EXPECT_FALSE(path_exists(folder / "pack.partial"));
    remove_all(folder / "pack");
  }
}

}  // namespace
}  // namespace furrow::data
