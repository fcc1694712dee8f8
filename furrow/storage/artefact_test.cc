#include "furrow/storage/artefact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/storage/test_folder.h"

namespace furrow::storage {
namespace {

using ::testing::HasSubstr;

Artefact sample() {
  Artefact artefact;
  artefact.architecture = "convnet";
  artefact.model = "name = \"convnet\"\nhidden = [8, 16]\ndropout = 0.0005\nbias = true\n";
  artefact.inputs = {{"images", DType::kF32, {-1, 1, 28, 28}}};
  artefact.outputs = {{"logits", DType::kF32, {-1, 10}}, {"scalar", DType::kI64, {}}};
  artefact.preprocessing = {
      {"kind", "normalize"}, {"mean", "0.2860"}, {"odd key.\"é\"", "line\n\ttab \x7f ${X}"}};
  artefact.labels = {"T-shirt", "Trouser", "\"quoted\""};
  artefact.lineage = {{"run", "runs/a"}, {"step", "9380"}};
  return artefact;
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

class ArtefactFolder : public ::testing::Test {
 protected:
  ArtefactFolder() : weight(DType::kF32, {2, 2}) {
    for (size_t i = 0; i < 4; ++i) weight.as<float>()[i] = static_cast<float>(i);
  }
  ~ArtefactFolder() override { arm_failpoints(""); }
  void write(const Artefact& artefact) {
    write_artefact(path, artefact, std::vector<NamedArray>{{"conv1.weight", weight.view()}});
  }
  TestFolder folder;
  std::string path = folder / "model";
  Array weight;
};

TEST_F(ArtefactFolder, RoundTrips) {
  write(sample());
  const Artefact read = read_artefact(path);
  Artefact expected = sample();
  expected.digest = read.digest;
  EXPECT_EQ(read, expected) << read_file(path + "/model.toml");
  const SafetensorsFile parameters = open_parameters(path);
  EXPECT_EQ(read.digest, xxh3_128(parameters.file_bytes()));
  EXPECT_EQ(parameters.at("conv1.weight").shape, (Shape{2, 2}));
}

TEST_F(ArtefactFolder, EqualModelsGiveEqualFilesAndReplace) {
  write(sample());
  const std::string description = read_file(path + "/model.toml"),
                    parameters = read_file(path + "/model.safetensors");
  write(sample());
  EXPECT_EQ(read_file(path + "/model.toml"), description);
  EXPECT_EQ(read_file(path + "/model.safetensors"), parameters);
  weight.as<float>()[3] = 7;
  write(sample());
  EXPECT_NE(read_file(path + "/model.toml"), description);  // the digest
  EXPECT_NE(read_file(path + "/model.safetensors"), parameters);
}

TEST_F(ArtefactFolder, AFailedWriteLeavesTheOldOneAlone) {
  write(sample());
  const std::string before = read_file(path + "/model.toml");
  Artefact other = sample();
  other.architecture = "mlp";
  for (const char* point : {"artefact.before_rename=error", "file.write=enospc", "file.write=enospc@3"}) {
    arm_failpoints(point);
    EXPECT_THROW(write(other), Error) << point;
    arm_failpoints("");
    EXPECT_EQ(read_file(path + "/model.toml"), before);
    EXPECT_FALSE(path_exists(path + ".tmp-" + std::to_string(::getpid())));
  }
}

TEST_F(ArtefactFolder, DamageIsNamed) {
  write(sample());
  const std::string good = read_file(path + "/model.safetensors");
  std::string bad = good;
  bad.back() = static_cast<char>(bad.back() ^ 1);
  write_file_atomic(path + "/model.safetensors", bad);
  EXPECT_THAT(error_of([&] { read_artefact(path); }, ErrorCode::kDataLoss),
              HasSubstr("artefact " + path + ": model.safetensors is damaged"));
  write_file_atomic(path + "/model.safetensors", good);
  EXPECT_NO_THROW(read_artefact(path));
  remove_all(path + "/model.safetensors");
  error_of([&] { read_artefact(path); }, ErrorCode::kNotFound);
  error_of([&] { read_artefact(folder / "none"); }, ErrorCode::kNotFound);
}

TEST_F(ArtefactFolder, WrongTextIsRefused) {
  Artefact artefact = sample();
  artefact.labels.push_back("\xff");
  EXPECT_THAT(error_of([&] { write(artefact); }, ErrorCode::kInvalidArgument), HasSubstr("labels"));
  artefact = sample();
  artefact.model = "not toml at all";
  EXPECT_THAT(error_of([&] { write(artefact); }, ErrorCode::kInvalidArgument), HasSubstr("[model]"));
  artefact.model = "[sub]\nx = 1\n";
  EXPECT_THAT(error_of([&] { write(artefact); }, ErrorCode::kInvalidArgument),
              HasSubstr("must be a scalar or a list"));
  EXPECT_FALSE(path_exists(path));
}

TEST(ArtefactText, EmptyPartsRoundTrip) {
  Artefact artefact;
  artefact.architecture = "mlp";
  EXPECT_EQ(parse_artefact(to_toml(artefact)), artefact);
}

TEST(ArtefactText, RefusesWhatCannotBe) {
  const std::string good = to_toml(sample());
  const std::vector<std::array<std::string, 3>> cases = {
      {"furrow-artefact", "other", "not the description"},
      {"version = 1", "version = 0", "'version'"},
      {"version = 1", "version = \"1\"", "'version'"},
      {"architecture = \"convnet\"\n", "", "'architecture' is missing"},
      {"labels = [", "labels = [1, ", "'labels' must be a string"},
      {"digest = \"0", "digest = \"x", "32 hexadecimal digits"},
      {"[model]", "[model", "not TOML"},
      {"dtype = \"float32\"", "dtype = \"float33\"", "unknown dtype"},
      {"shape = [-1, 1, 28, 28]", "shape = [-2]", "neither a size nor -1"},
      {"shape = [-1, 1, 28, 28]", "shape = 3", "must be a list"},
      {"[[inputs]]", "[inputs]", "'inputs' must be a list"},
      {"\"run\" = \"runs/a\"", "\"run\" = 1", "'run' must be a string"},
      {"[lineage]", "[linage]", "'lineage' is missing"},
  };
  for (const auto& [from, to, expected] : cases) {
    std::string bad = good;
    ASSERT_NE(bad.find(from), std::string::npos) << from << "\n" << good;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_THAT(error_of([&] { parse_artefact(bad); }, ErrorCode::kDataLoss), HasSubstr(expected)) << to;
  }
  std::string newer = good;
  newer.replace(newer.find("version = 1"), 11, "version = 9");
  EXPECT_THAT(error_of([&] { parse_artefact(newer); }, ErrorCode::kUnimplemented),
              HasSubstr("use a newer furrow"));
}

}  // namespace
}  // namespace furrow::storage
