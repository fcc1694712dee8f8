#include "furrow/storage/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/log.h"
#include "furrow/storage/test_folder.h"

namespace furrow::storage {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Array floats(Shape shape, float first) {
  Array array(DType::kF32, std::move(shape));
  std::iota(array.as<float>().begin(), array.as<float>().end(), first);
  return array;
}

// A checkpoint whose every number follows from its step.
void save(const std::string& folder, int64_t step) {
  const Array weight = floats({4, 3}, static_cast<float>(step)),
              bias = floats({4}, static_cast<float>(-step));
  CheckpointWriter writer(folder, step);
  writer.write("model.safetensors", std::vector<NamedArray>{{"w", weight.view()}});
  const std::vector<CheckpointPiece> of_another = {{.name = "optimizer.m/b", .view = bias.view()}};
  writer.adopt(write_pieces(writer.working_folder(), "optimizer.safetensors", of_another));
  CheckpointInfo info;
  info.data_position = step * 64;
  info.seed = 0xFFFFFFFFFFFFFFFF;
  info.threads = 2;
  info.instruction_set = "avx2";
  info.library_build = "furrow test";
  info.config = "[training]\nsteps = 5\n";
  info.state = "step " + std::to_string(step);
  info.recipe = {{"optimizer.lr", "0.1"}, {"training.steps", "5"}};
  writer.commit(info);
}

float first_weight(const CheckpointReader& reader) {
  const Array out(DType::kF32, {4, 3});
  reader.read("w", out.view());
  return out.as<float>()[0];
}

std::vector<int64_t> committed_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    if (entry.committed) steps.push_back(entry.step);
  }
  return steps;
}

std::string error_of(const std::function<void()>& act, ErrorCode code) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

void flip_bit(const std::string& path, size_t byte) {
  std::string bytes = read_file(path);
  bytes.at(byte) = static_cast<char>(bytes.at(byte) ^ 4);
  write_file_atomic(path, bytes);
}

class Checkpoint : public ::testing::Test {
 protected:
  Checkpoint() {
    set_log_writer([this](std::string_view line) { log_lines += line; });
  }
  ~Checkpoint() override {
    arm_failpoints("");
    set_log_writer({});
  }
  std::string step(int64_t number) const { return checkpoints + "/" + step_folder_name(number); }

  TestFolder folder;
  std::string checkpoints = folder / "run/checkpoints";
  std::string log_lines;
};

TEST_F(Checkpoint, RoundTripsTensorsAndInfo) {
  save(checkpoints, 100);
  const CheckpointReader reader = CheckpointReader::open(checkpoints + "/step-00000100");
  const Manifest& manifest = reader.manifest();
  EXPECT_EQ(manifest.step, 100);
  EXPECT_EQ(manifest.data_position, 6400);
  EXPECT_EQ(manifest.seed, UINT64_MAX);
  EXPECT_EQ(manifest.threads, 2);
  EXPECT_EQ(manifest.instruction_set, "avx2");
  EXPECT_EQ(manifest.library_build, "furrow test");
  EXPECT_EQ(manifest.config, "[training]\nsteps = 5\n");
  EXPECT_EQ(manifest.state, "step 100");
  EXPECT_EQ(manifest.recipe.at(1).first, "training.steps");
  EXPECT_EQ(manifest.tensors.size(), 2u);
  EXPECT_EQ(to_json(parse_manifest(to_json(manifest))), to_json(manifest));
  reader.verify();
  EXPECT_EQ(first_weight(reader), 100);
  const Array bias(DType::kF32, {4});
  reader.read("optimizer.m/b", bias.view());
  EXPECT_EQ(bias.as<float>()[3], -97);
}

TEST_F(Checkpoint, EqualStatesGiveEqualBytes) {
  save(checkpoints, 7);
  save(folder / "other", 7);
  for (const char* file : {"/model.safetensors", "/optimizer.safetensors", "/manifest.json", "/COMMIT"}) {
    EXPECT_EQ(read_file(step(7) + file), read_file(folder / "other/step-00000007" + file)) << file;
  }
  save(folder / "other", 8);
  EXPECT_NE(read_file(step(7) + "/COMMIT"), read_file(folder / "other/step-00000008/COMMIT"));
}

TEST_F(Checkpoint, PiecesOfSeveralWritersMakeOneTensor) {
  const Array whole = floats({4, 6, 5}, 0);
  const auto box = [&](Shape offset, Shape extent) {
    Array piece(DType::kF32, extent);
    size_t at = 0;
    for (int64_t i = 0; i < extent[0]; ++i) {
      for (int64_t j = 0; j < extent[1]; ++j) {
        for (int64_t k = 0; k < extent[2]; ++k) {
          piece.as<float>()[at++] =
              static_cast<float>(((offset[0] + i) * 6 + offset[1] + j) * 5 + offset[2] + k);
        }
      }
    }
    return piece;
  };
  const Array a = box({0, 0, 0}, {4, 2, 5}), b = box({0, 2, 0}, {3, 4, 5}), c = box({3, 2, 0}, {1, 4, 2}),
              d = box({3, 2, 2}, {1, 4, 3});
  CheckpointWriter writer(checkpoints, 1);
  writer.write("rank0.safetensors", std::vector<CheckpointPiece>{{"t", a.view(), {4, 6, 5}, {0, 0, 0}},
                                                                 {"t", b.view(), {4, 6, 5}, {0, 2, 0}}});
  writer.write("rank1.safetensors", std::vector<CheckpointPiece>{{"t", c.view(), {4, 6, 5}, {3, 2, 0}},
                                                                 {"t", d.view(), {4, 6, 5}, {3, 2, 2}}});
  writer.commit({});
  const CheckpointReader reader = CheckpointReader::open(step(1));
  const Array out(DType::kF32, {4, 6, 5});
  reader.read("t", out.view());
  EXPECT_EQ(std::memcmp(out.bytes().data(), whole.bytes().data(), whole.bytes().size()), 0);
}

TEST_F(Checkpoint, MissingPiecesAreNoticed) {
  const Array half = floats({2, 3}, 0);
  CheckpointWriter writer(checkpoints, 1);
  writer.write("r.safetensors", std::vector<CheckpointPiece>{{"t", half.view(), {4, 3}, {0, 0}}});
  EXPECT_THAT(error_of([&] { writer.commit({}); }, ErrorCode::kDataLoss),
              HasSubstr("cover 6 of 12 elements"));
  EXPECT_FALSE(newest_valid(checkpoints).has_value());
}

TEST_F(Checkpoint, ReadingSaysWhatIsWrong) {
  save(checkpoints, 1);
  const CheckpointReader reader = CheckpointReader::open(step(1));
  EXPECT_THAT(error_of([&] { reader.read("W", Array(DType::kF32, {1}).view()); }, ErrorCode::kNotFound),
              HasSubstr("known: optimizer.m/b, w"));
  EXPECT_THAT(
      error_of([&] { reader.read("w", Array(DType::kF32, {3, 4}).view()); }, ErrorCode::kFailedPrecondition),
      HasSubstr("tensor 'w' is float32 [4, 3], the model wants float32 [3, 4]"));
  EXPECT_THAT(error_of([&] { CheckpointReader::open(step(2)); }, ErrorCode::kNotFound),
              HasSubstr("step-00000002"));
}

TEST_F(Checkpoint, EveryDamagedByteIsNamed) {
  save(checkpoints, 1);
  for (const char* file : {"/model.safetensors", "/optimizer.safetensors", "/manifest.json", "/COMMIT"}) {
    const std::string path = step(1) + file;
    const std::string good = read_file(path);
    for (size_t byte = 0; byte < good.size(); byte += 3) {
      flip_bit(path, byte);
      EXPECT_THROW(CheckpointReader::open(step(1)).verify(), Error) << file << " byte " << byte;
      write_file_atomic(path, good);
    }
    write_file_atomic(path, good.substr(0, good.size() / 2));
    EXPECT_THROW(CheckpointReader::open(step(1)).verify(), Error) << file << " cut";
    write_file_atomic(path, good);
  }
  EXPECT_NO_THROW(CheckpointReader::open(step(1)).verify());
  flip_bit(step(1) + "/model.safetensors", read_file(step(1) + "/model.safetensors").size() - 1);
  EXPECT_THAT(error_of([&] { CheckpointReader::open(step(1)).verify(); }, ErrorCode::kDataLoss),
              HasSubstr("model.safetensors: checksum of tensor 'w' differs"));
  EXPECT_THAT(error_of([&] { first_weight(CheckpointReader::open(step(1))); }, ErrorCode::kDataLoss),
              HasSubstr("checksum"));
}

TEST_F(Checkpoint, NewestValidPassesOverDamagedAndUncommittedOnes) {
  EXPECT_FALSE(newest_valid(checkpoints).has_value());
  for (const int64_t each : {10, 20, 30, 40}) save(checkpoints, each);
  remove_all(step(40) + "/COMMIT");
  flip_bit(step(30) + "/model.safetensors", read_file(step(30) + "/model.safetensors").size() - 1);
  std::vector<DamagedCheckpoint> damaged;
  const auto newest = newest_valid(checkpoints, &damaged);
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->manifest().step, 20);
  ASSERT_EQ(damaged.size(), 1u);
  EXPECT_EQ(damaged[0].folder, step(30));
  EXPECT_THAT(damaged[0].reason, HasSubstr("checksum"));
  EXPECT_THAT(log_lines, IsEmpty());
  newest_valid(checkpoints);
  EXPECT_THAT(log_lines, HasSubstr("warning: " + step(30) + " is damaged and passed over"));
}

TEST_F(Checkpoint, ListIgnoresOtherNames) {
  save(checkpoints, 5);
  save(checkpoints, 123456789);
  for (const char* name : {"/step-5", "/step-00000006.new", "/best", "/step-x"})
    make_directories(checkpoints + name);
  EXPECT_THAT(committed_steps(checkpoints), ElementsAre(123456789, 5));
  EXPECT_EQ(list_checkpoints(checkpoints).size(), 2u);
  EXPECT_THAT(list_checkpoints(folder / "none"), IsEmpty());
}

TEST_F(Checkpoint, PruneKeepsTheNewestAndSweeps) {
  for (const int64_t each : {1, 2, 3, 4}) save(checkpoints, each);
  make_directories(step(9));  // an interrupted save
  make_directories(step(2) + ".new");
  make_directories(checkpoints + "/best");
  prune(checkpoints, 0);
  EXPECT_THAT(committed_steps(checkpoints), ElementsAre(4, 3, 2, 1));
  prune(checkpoints, 2);
  EXPECT_THAT(committed_steps(checkpoints), ElementsAre(4, 3));
  EXPECT_FALSE(path_exists(step(9)));
  EXPECT_FALSE(path_exists(step(2) + ".new"));
  EXPECT_TRUE(path_exists(checkpoints + "/best"));
}

TEST_F(Checkpoint, AnAbandonedSaveLeavesNothing) {
  {
    const CheckpointWriter writer(checkpoints, 3);
  }
  EXPECT_FALSE(path_exists(step(3)));
  make_directories(step(3));
  write_file_atomic(step(3) + "/junk.safetensors", "junk");
  save(checkpoints, 3);
  EXPECT_FALSE(path_exists(step(3) + "/junk.safetensors"));
  save(checkpoints, 3);  // a committed one is replaced
  EXPECT_EQ(first_weight(*newest_valid(checkpoints)), 3);
  EXPECT_FALSE(path_exists(step(3) + ".new"));
}

// A full disk or an error at any step: the error comes out, the old checkpoint stays, nothing half-written is
// left.
TEST_F(Checkpoint, ErrorsDuringASaveLeaveTheLastOneWhole) {
  std::vector<std::string> points = checkpoint_failpoints();
  points.insert(points.end(), {"file.write", "file.before_rename"});
  for (const std::string& point : points) {
    for (const std::string action : {"=enospc@1", "=error@2"}) {
      remove_all(checkpoints);
      save(checkpoints, 10);
      arm_failpoints(point + action);
      bool failed = false;
      try {
        save(checkpoints, 20);
      } catch (const Error&) {
        failed = true;
      }
      arm_failpoints("");
      const auto newest = newest_valid(checkpoints);
      ASSERT_TRUE(newest.has_value()) << point << action;
      const bool committed = !failed || point == "checkpoint.after_commit";
      EXPECT_EQ(newest->manifest().step, committed ? 20 : 10) << point << action;
      EXPECT_EQ(path_exists(step(20)), committed) << point << action;
    }
  }
}

TEST_F(Checkpoint, EveryFailpointIsPassedBySaveAndPrune) {
  for (const std::string& point : checkpoint_failpoints()) {
    remove_all(checkpoints);
    save(checkpoints, 1);
    arm_failpoints(point + "=error");
    EXPECT_THROW(
        {
          save(checkpoints, 2);
          prune(checkpoints, 1);
        },
        Error)
        << point;
    arm_failpoints("");
  }
}

// Killed at each point in turn: what is left is the old checkpoint or the new one, whole.
TEST_F(Checkpoint, AKillAtAnyFailpointLeavesAValidOne) {
  for (const std::string& point : checkpoint_failpoints()) {
    for (const std::string pass : {"@1", "@2"}) {
      remove_all(checkpoints);
      save(checkpoints, 10);
      const pid_t child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        arm_failpoints(point + "=kill" + pass);
        save(checkpoints, 20);
        save(checkpoints, 20);  // replaces a committed one
        prune(checkpoints, 1);
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      std::vector<DamagedCheckpoint> damaged;
      const auto newest = newest_valid(checkpoints, &damaged);
      ASSERT_TRUE(newest.has_value()) << point << pass;
      EXPECT_THAT(damaged, IsEmpty()) << point << pass;
      EXPECT_EQ(first_weight(*newest), static_cast<float>(newest->manifest().step));
      save(checkpoints, 20);  // and the next save goes on from there
      prune(checkpoints, 1);
      EXPECT_THAT(committed_steps(checkpoints), ElementsAre(20)) << point << pass;
    }
  }
}

// The only checkpoint is being replaced by one of the same step: at no moment is there none.
TEST_F(Checkpoint, AKillWhileReplacingLeavesAValidOne) {
  for (const std::string& point : checkpoint_failpoints()) {
    remove_all(checkpoints);
    save(checkpoints, 20);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      arm_failpoints(point + "=kill");
      save(checkpoints, 20);
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    const auto newest = newest_valid(checkpoints);
    ASSERT_TRUE(newest.has_value()) << point;
    EXPECT_EQ(first_weight(*newest), 20) << point;
  }
}

TEST(Manifest, RefusesWhatCannotBe) {
  const auto manifest = [](const std::string& from, const std::string& to) {
    std::string text =
        R"({"format":"furrow-checkpoint","version":1,"step":1,"data_position":2,"seed":3,"threads":1,)"
        R"("instruction_set":"avx2","library_build":"x","recipe":{"a":"b"},"config":"","state":"","tensors":[)"
        R"({"name":"t","dtype":"float32","shape":[2],"pieces":[{"file":"a.safetensors","entry":"t","offset":[0],)"
        R"("extent":[2],"xxh3":"0123456789abcdef"}]}]})";
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_NO_THROW(parse_manifest(manifest("\"step\":1", "\"step\":1")));
  const std::vector<std::array<std::string, 3>> cases = {
      {"furrow-checkpoint", "other", "not the manifest"},
      {"\"version\":1", "\"version\":0", "never existed"},
      {"\"step\":1", "\"step\":-1", "cannot be negative"},
      {"\"seed\":3", "\"seed\":-3", "not negative"},
      {"float32", "float33", "unknown dtype"},
      {"[2],\"pieces\"", "[-2],\"pieces\"", "beyond shape"},
      {"a.safetensors", "../a.safetensors", "no file name"},
      {"a.safetensors", ".a.safetensors", "no file name"},
      {"a.safetensors", "a.txt", "no file name"},
      {"\"offset\":[0]", "\"offset\":[1]", "reaches beyond"},
      {"\"offset\":[0]", "\"offset\":[]", "another number of dims"},
      {"\"extent\":[2]", "\"extent\":[1]", "cover 1 of 2"},
      {"\"extent\":[2]", "\"extent\":[9223372036854775807]", "reaches beyond"},
      {"0123456789abcdef", "0123", "16 hexadecimal digits"},
      {"\"recipe\":{\"a\":\"b\"}", "\"recipe\":[]", "expected an object"},
      {"\"state\":\"\",", "", "expected the key 'state'"},
      {"[2],\"pieces\":[",
       "[4],\"pieces\":[{\"file\":\"b.safetensors\",\"entry\":\"t\",\"offset\":[1],\"extent\":[2],"
       "\"xxh3\":\"0123456789abcdef\"},",
       "pieces overlap"},
      {"\"tensors\":[", "\"tensors\":[{\"name\":\"t\",\"dtype\":\"int8\",\"shape\":[0],\"pieces\":[]},",
       "stands there twice"},
  };
  for (const auto& [from, to, expected] : cases) {
    EXPECT_THAT(error_of([&] { parse_manifest(manifest(from, to)); }, ErrorCode::kDataLoss),
                HasSubstr(expected))
        << to;
  }
  EXPECT_THAT(error_of([&] { parse_manifest(manifest("\"version\":1", "\"version\":2")); },
                       ErrorCode::kUnimplemented),
              HasSubstr("use a newer furrow"));
}

}  // namespace
}  // namespace furrow::storage
