#include "furrow/storage/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/storage/pack_shard.h"
#include "furrow/storage/test_folder.h"

namespace furrow::storage {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kRecord = 100;

std::byte record_byte(int64_t record, size_t at) {
  return static_cast<std::byte>(static_cast<uint64_t>(record) * 7 + at * 13 +
                                (static_cast<uint64_t>(record) >> 8));
}

std::vector<std::byte> records(int64_t first, int64_t count) {
  std::vector<std::byte> bytes;
  for (int64_t record = first; record < first + count; ++record) {
    for (size_t at = 0; at < kRecord; ++at) bytes.push_back(record_byte(record, at));
  }
  return bytes;
}

PackShard write_shard(const std::string& path, int64_t first, int64_t count, int64_t piece,
                      size_t block_bytes = kPackBlockBytes) {
  ShardWriter writer(path, kRecord, first, block_bytes);
  for (int64_t done = 0; done < count; done += piece) {
    writer.append(records(first + done, std::min(piece, count - done)));
  }
  return writer.commit();
}

// 3,700 records in shards of 1,000, 2,000 and 700: several blocks each, records across their borders.
PackInfo write_sample(const TestFolder& folder) {
  PackInfo info{.kind = "idx", .layout = "samples"};
  info.fields = {{"a", DType::kF32, {4, 6}}, {"b", DType::kI32, {}}};
  info.preprocessing = {{"kind", "image"}, {"mean", "0.5"}};
  info.lineage = {{"source", "a \"quoted\" folder"}};
  PackSplit split{.name = "train"};
  split.shards.push_back(write_shard(folder / "train-00000.shard", 0, 1000, 1000));
  split.shards.push_back(write_shard(folder / "train-00001.shard", 1000, 2000, 333));
  split.shards.push_back(write_shard(folder / "train-00002.shard", 3000, 700, 1));
  info.splits = {split};
  write_pack(folder.path(), info);
  return info;
}

template <class Function>
Error error_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorCode::kInternal, "no error"};
}

std::string file_of(const std::string& path) { return read_file(path); }

void flip(const std::string& path, size_t at, uint8_t bits = 1) {
  std::string bytes = file_of(path);
  bytes[at] = static_cast<char>(bytes[at] ^ bits);
  write_file_atomic(path, bytes);
}

class PackBothWays : public ::testing::TestWithParam<PackAccess> {};
INSTANTIATE_TEST_SUITE_P(Access, PackBothWays, ::testing::Values(PackAccess::kMapped, PackAccess::kStreamed));

TEST_P(PackBothWays, ReadsWhatWasWritten) {
  const TestFolder folder;
  const PackInfo written = write_sample(folder);
  const PackInfo info = read_pack(folder.path());
  EXPECT_EQ(info, written);
  const PackReader reader(folder.path(), info, *info.find("train"), GetParam());
  ASSERT_EQ(reader.size(), 3700);
  ASSERT_EQ(reader.record_bytes(), kRecord);
  std::vector<std::byte> scratch(3700 * kRecord);
  for (int round = 0; round < 2; ++round) {  // blocks not yet compared, then blocks that were
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1},
                                       {655, 1},
                                       {999, 2},
                                       {998, 2100},
                                       {3699, 1},
                                       {2999, 1},
                                       {3000, 700},
                                       {0, 3700},
                                       {17, 0}}) {
      const auto got = reader.read(first, count, scratch);
      const auto expected = records(first, count);
      ASSERT_TRUE(std::ranges::equal(got, expected)) << first << " + " << count;
      reader.prefetch(first, count);
    }
  }
  EXPECT_THROW(reader.read(3700, 1, scratch), Error);
  EXPECT_THROW(reader.read(-1, 1, scratch), Error);
  EXPECT_THROW(reader.read(3000, 701, scratch), Error);
  const PackSplit& train = info.splits[0];
  EXPECT_TRUE(verify_shard(folder.path(), info.record_bytes(), train.shards[1], 1000).empty());
  EXPECT_THROW(verify_shard(folder.path(), info.record_bytes(), train.shards[1], 1001), Error);
}

TEST_P(PackBothWays, ManyThreadsReadAtOnce) {
  const TestFolder folder;
  const PackInfo info = write_sample(folder);
  const PackReader reader(folder.path(), info, info.splits[0], GetParam());
  std::vector<std::jthread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::byte> scratch(kRecord);
      for (int64_t i = 0; i < 3700; ++i) {
        const int64_t record = (i * 1531 + t * 977) % 3700;
        wrong += !std::ranges::equal(reader.read(record, 1, scratch), records(record, 1));
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST_P(PackBothWays, AFlippedBitIsFoundBeforeItIsUsed) {
  const TestFolder folder;
  const PackInfo info = write_sample(folder);
  const std::string path = folder / "train-00001.shard";
  flip(path, kShardHeaderBytes + 70000);  // record 1,700, in block 1 of the shard
  const PackReader reader(folder.path(), info, info.splits[0], GetParam());
  std::vector<std::byte> scratch(3700 * kRecord);
  EXPECT_NO_THROW(reader.read(0, 1600, scratch));  // other blocks are whole
  const Error error = error_of([&] { reader.read(1700, 1, scratch); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr("train-00001.shard: bytes 65536 to 131071"));
  EXPECT_THROW(reader.read(1800, 1, scratch), Error);  // the block stays refused
  EXPECT_THAT(verify_shard(folder.path(), info.record_bytes(), info.splits[0].shards[1], 1000),
              ElementsAre(HasSubstr("bytes 65536 to 131071")));
  EXPECT_TRUE(verify_shard(folder.path(), info.record_bytes(), info.splits[0].shards[0], 0).empty());
}

TEST(PackBlocks, AreAboutTwoRecordsAndNotTooMany) {
  constexpr uint64_t kGiga = uint64_t{1} << 30;
  EXPECT_EQ(pack_block_bytes(1, 1000), 4096u);
  EXPECT_EQ(pack_block_bytes(788, 4 * kGiga), 4096u);
  EXPECT_EQ(pack_block_bytes(2048, 4 * kGiga), 4096u);
  EXPECT_EQ(pack_block_bytes(2049, 4 * kGiga), 8192u);
  EXPECT_EQ(pack_block_bytes(150'532, 4 * kGiga), 65536u);
  EXPECT_EQ(pack_block_bytes(788, 8 * kGiga), 4096u) << "16 MiB of checksums";
  EXPECT_EQ(pack_block_bytes(788, 16 * kGiga), 8192u);
  EXPECT_EQ(pack_block_bytes(788, 8192 * kGiga), 65536u);
}

// The blocks of every size hold the same records; damage costs its own block and no other.
TEST_P(PackBothWays, BlocksOfEverySizeAreReadAndChecked) {
  for (size_t block = kLeastPackBlockBytes; block <= kPackBlockBytes; block *= 2) {
    const TestFolder folder;
    PackInfo info{.kind = "idx", .layout = "samples"};
    info.fields = {{"a", DType::kU8, {kRecord}}};
    info.splits = {{"train", {write_shard(folder / "a.shard", 0, 2000, 700, block)}}};
    flip(folder / "a.shard", kShardHeaderBytes + 123 * 1024);
    const size_t damaged = 123 * 1024 / block;
    const PackReader reader(folder.path(), info, info.splits[0], GetParam());
    std::vector<std::byte> scratch(2000 * kRecord);
    for (int64_t i = 0; i < 2000; ++i) {
      const int64_t record = i * 1531 % 2000;
      const size_t begin = static_cast<size_t>(record) * kRecord, last = begin + kRecord - 1;
      if (begin / block <= damaged && damaged <= last / block) {
        EXPECT_THROW(reader.read(record, 1, scratch), Error) << record << " by blocks of " << block;
      } else {
        ASSERT_TRUE(std::ranges::equal(reader.read(record, 1, scratch), records(record, 1))) << record;
      }
    }
    EXPECT_EQ(verify_shard(folder.path(), kRecord, info.splits[0].shards[0], 0).size(), 1u);
  }
}

// A header with other words, and the checksum that belongs to it.
void rewrite_header(const std::string& path, uint32_t version, uint32_t block_bytes) {
  std::string bytes = file_of(path);
  std::memcpy(bytes.data() + 8, &version, sizeof(version));
  std::memcpy(bytes.data() + 12, &block_bytes, sizeof(block_bytes));
  const uint64_t checksum = xxh3_64(std::string_view(bytes).substr(0, kShardHeaderBytes - 8));
  std::memcpy(bytes.data() + kShardHeaderBytes - 8, &checksum, sizeof(checksum));
  write_file_atomic(path, bytes);
}

TEST_P(PackBothWays, ShardsOfVersion1AreRead) {
  const TestFolder folder;
  const PackInfo info = write_sample(folder);
  for (const PackShard& shard : info.splits[0].shards)
    rewrite_header(folder / shard.file, 1, static_cast<uint32_t>(kPackBlockBytes));
  const PackReader reader(folder.path(), info, info.splits[0], GetParam());
  std::vector<std::byte> scratch(3700 * kRecord);
  EXPECT_TRUE(std::ranges::equal(reader.read(0, 3700, scratch), records(0, 3700)));
}

TEST(Pack, BlocksThatNobodyWritesAreRefused) {
  const TestFolder folder;
  const std::string path = folder / "a.shard";
  const PackShard written = write_shard(path, 0, 3, 3);
  for (const auto& [version, block] :
       {std::pair<uint32_t, uint32_t>{1, 4096}, {2, 0}, {2, 2048}, {2, 4097}, {2, 131072}}) {
    rewrite_header(path, version, block);
    EXPECT_THAT(error_of([&] { inspect_shard(path, kRecord, 0); }).what(), HasSubstr("impossible numbers"))
        << version << " " << block;
  }
  rewrite_header(path, 3, 4096);
  EXPECT_EQ(error_of([&] { inspect_shard(path, kRecord, 0); }).code(), ErrorCode::kUnimplemented);
  rewrite_header(path, 2, 4096);
  EXPECT_EQ(inspect_shard(path, kRecord, 0).checksum, written.checksum) << "control: one block either way";
}

// Every flipped bit of a small shard is refused at opening or found by verifying.
TEST(Pack, EveryFlippedByteOfAShardIsFound) {
  const TestFolder folder;
  PackInfo info{.kind = "idx", .layout = "samples"};
  info.fields = {{"a", DType::kU8, {kRecord}}};
  info.splits = {{"train", {write_shard(folder / "train-00000.shard", 0, 3, 3)}}};
  const std::string path = folder / "train-00000.shard", whole = file_of(path);
  ASSERT_EQ(whole.size(), 64u + 304 + 8);
  int unseen = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
    write_file_atomic(path, bytes);
    try {
      const bool whole_to_us =
          verify_shard(folder.path(), info.record_bytes(), info.splits[0].shards[0], 0).empty();
      unseen += whole_to_us;
      EXPECT_TRUE(!whole_to_us || (at >= 64 + 300 && at < 64 + 304)) << at;  // padding
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kUnimplemented) << at;
    }
  }
  EXPECT_EQ(unseen, 4);
}

TEST(Pack, EveryTruncationOfAShardIsRefused) {
  const TestFolder folder;
  const PackShard shard = write_shard(folder / "a.shard", 0, 3, 3);
  const std::string whole = file_of(folder / "a.shard");
  for (size_t length = 0; length < whole.size(); ++length) {
    write_file_atomic(folder / "b.shard", whole.substr(0, length));
    const Error error = error_of([&] { inspect_shard(folder / "b.shard", kRecord, 0); });
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << length;
    EXPECT_THAT(error.what(), HasSubstr("b.shard"));
  }
  write_file_atomic(folder / "b.shard", whole + "x");
  EXPECT_THROW(inspect_shard(folder / "b.shard", kRecord, 0), Error);
  write_file_atomic(folder / "b.shard", whole);
  EXPECT_EQ(inspect_shard(folder / "b.shard", kRecord, 0).checksum, shard.checksum);
  EXPECT_THROW(inspect_shard(folder / "b.shard", kRecord, 1), Error);
  EXPECT_THROW(inspect_shard(folder / "b.shard", kRecord + 1, 0), Error);
}

TEST(Pack, ShardsDoNotDependOnHowTheyAreAppended) {
  const TestFolder folder;
  write_shard(folder / "a.shard", 5, 2000, 1);
  write_shard(folder / "b.shard", 5, 2000, 2000);
  EXPECT_EQ(file_of(folder / "a.shard"), file_of(folder / "b.shard"));
}

TEST(Pack, ExchangedAndMissingShardsAreNamed) {
  const TestFolder folder;
  const PackInfo info = write_sample(folder);
  const auto open = [&] { PackReader(folder.path(), info, info.splits[0], PackAccess::kMapped); };
  write_shard(folder / "train-00001.shard", 1000, 2000, 2000);
  EXPECT_NO_THROW(open());
  {
    ShardWriter other(folder / "train-00001.shard", kRecord, 1000);
    other.append(records(1001, 2000));
    other.commit();
  }
  EXPECT_THAT(error_of(open).what(),
              HasSubstr("train-00001.shard is not the shard that pack.json describes"));
  remove_all(folder / "train-00001.shard");
  const Error error = error_of(open);
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), HasSubstr("train-00001.shard"));
}

TEST(Pack, AWriterThatEndsEarlyLeavesNothing) {
  const TestFolder folder;
  {
    ShardWriter(folder / "a.shard", kRecord, 0).append(records(0, 5));
  }
  EXPECT_FALSE(path_exists(folder / "a.shard"));
  arm_failpoints("file.before_rename=enospc");
  EXPECT_THROW(write_shard(folder / "a.shard", 0, 5, 5), Error);
  arm_failpoints("");
  EXPECT_FALSE(path_exists(folder / "a.shard"));
  ShardWriter empty(folder / "a.shard", kRecord, 0);
  EXPECT_THROW(empty.commit(), Error);
  EXPECT_THROW(empty.append(std::vector<std::byte>(kRecord + 1)), Error);
}

TEST(PackManifest, DamageAndLaterVersionsAreRefused) {
  const TestFolder folder;
  const PackInfo info = write_sample(folder);
  const std::string text = to_json(info);
  EXPECT_EQ(parse_pack(text), info);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string other = text;
    const size_t at = other.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return error_of([&] { parse_pack(other.replace(at, from.size(), to)); });
  };
  EXPECT_THAT(with("\"mean\": \"0.5\"", "\"mean\": \"0.6\"").what(), HasSubstr("digest differs"));
  EXPECT_EQ(with("\"version\": 1", "\"version\": 3").code(), ErrorCode::kUnimplemented);
  EXPECT_THAT(with("furrow-pack", "furrow-sack").what(), HasSubstr("no description of a pack"));
  EXPECT_THAT(with("train-00001.shard", "../passwd.shard").what(), HasSubstr("no file name"));
  EXPECT_THAT(with("train-00001.shard", "train-00000.shard").what(), HasSubstr("twice"));
  EXPECT_THAT(with("\"records\": 2000", "\"records\": 0").what(), HasSubstr("0 records"));
  EXPECT_THAT(with("float32", "float33").what(), HasSubstr("unknown dtype"));
  for (size_t length = 0; length + 2 < text.size(); length += 7) {
    EXPECT_THROW(parse_pack(text.substr(0, length)), Error);
  }
  const TestFolder empty;
  const Error error = error_of([&] { read_pack(empty.path()); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), HasSubstr("furrow data pack"));
}

// Packs without parts stay of version 1, so that earlier versions of furrow read them.
TEST(PackManifest, PartsAreOfVersionTwo) {
  const TestFolder folder;
  PackInfo info = write_sample(folder);
  EXPECT_THAT(to_json(info), HasSubstr("\"version\": 1"));
  info.layout = "mixture";
  info.parts = {{"a \"b\"", 0.1, "tokens"}, {"c", 3, "images"}};
  const std::string text = to_json(info);
  EXPECT_THAT(text, HasSubstr("\"version\": 2"));
  EXPECT_EQ(parse_pack(text), info);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string other = text;
    return error_of([&] { parse_pack(other.replace(other.find(from), from.size(), to)); });
  };
  EXPECT_THAT(with("\"weight\": 0.1", "\"weight\": 0.2").what(), HasSubstr("digest differs"));
  EXPECT_THAT(with("\"weight\": 0.1", "\"weight\": 0").what(), HasSubstr("no weight above 0"));
  EXPECT_THAT(with("\"weight\": 0.1", "\"weight\": -1").what(), HasSubstr("no weight above 0"));
  EXPECT_EQ(with("\"weight\": 0.1", "\"weight\": 1e999").code(), ErrorCode::kDataLoss);
  EXPECT_THAT(with("\"name\": \"c\"", "\"name\": \"a \\\"b\\\"\"").what(), HasSubstr("twice"));
}

}  // namespace
}  // namespace furrow::storage
