// Bad input through the real binary: one clear line on stderr, the right exit status, nothing half-written.
//
// Runs $FURROW_BIN on made-up data sets.  Full disks and read-only folders are real file systems, mounted in
// a mount namespace of the child; where that is not permitted, the test says so and uses a failpoint, or
// skips.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"

namespace furrow {
namespace {

namespace fs = std::filesystem;
using testing::ChildOptions;
using testing::ChildResult;
using ::testing::HasSubstr;

using Words = std::vector<std::string>;

std::string binary() {
  const char* path = std::getenv("FURROW_BIN");
  if (path == nullptr)
    throw std::runtime_error("FURROW_BIN is not set: run by ctest, or point it at build/.../bin/furrow");
  return path;
}

Words split_lines(const std::string& text) {
  Words lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string gzip(const std::string& contents) {
  libdeflate_compressor* const compressor = libdeflate_alloc_compressor(6);
  std::string out(libdeflate_gzip_compress_bound(compressor, contents.size()), '\0');
  out.resize(libdeflate_gzip_compress(compressor, contents.data(), contents.size(), out.data(), out.size()));
  libdeflate_free_compressor(compressor);
  return out;
}

void flip_bit(const std::string& path, size_t at) {
  std::string bytes = read_file(path);
  bytes.at(at) = static_cast<char>(bytes[at] ^ 1);
  write(path, bytes);
}

void truncate_to(const std::string& path, double share) {
  fs::resize_file(path, static_cast<uintmax_t>(static_cast<double>(fs::file_size(path)) * share));
}

// Every file below `folder`, by relative name.
Words files_below(const std::string& folder) {
  Words files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), folder).string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Everything that a run may leave behind after an error is a complete file of docs/formats/run-folder.md, and
// a checkpoint is committed or absent.
void expect_nothing_half_written(const std::string& run) {
  const Words complete = {".lock",        "config.toml", "plan.txt",   "preprocessing.json", "metrics.jsonl",
                          "summary.json", "loss.svg",    "trace.json", "timeline.svg"};
  for (const std::string& file : files_below(run)) {
    const bool known = std::find(complete.begin(), complete.end(), file) != complete.end();
    const bool committed = file.starts_with("checkpoints/") &&
                           fs::exists(fs::path(run) / fs::path(file).parent_path() / "COMMIT");
    EXPECT_TRUE(known || committed) << "left behind: " << file;
  }
}

class BadInput : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_made_up_idx(data(), 300, 60, 12); }

  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string data() const { return path("data"); }
  std::string run_folder() const { return path("run"); }

  // A configuration that trains, with `lines` of TOML behind it.
  std::string config(const std::string& lines = "") const {
    const std::string file = path("config.toml");
    write(file,
          "[model]\nname = \"mlp\"\nhidden = [16]\n"
          "[optimizer]\nname = \"sgd\"\nlr = 0.05\n"
          "[validation]\nenable = false\n"
          "[training]\nlocal_batch_size = 10\nthreads = 1\nsteps = 6\n" +
              lines);
    return file;
  }

  Words train(const Words& more = {}, const std::string& lines = "") const {
    Words words{
        binary(), "train", config(lines), "--job.dump_folder", run_folder(), "--training.dataset_path",
        data()};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  Words text(const std::string& file, const Words& more = {}) const {
    Words words{binary(),     "train",
                config(),     "--job.dump_folder",
                run_folder(), "--training.dataset",
                "text",       "--training.dataset_path",
                file,         "--model.name",
                "gpt",        "--model.layers",
                "1",          "--model.heads",
                "1",          "--model.width",
                "8",          "--training.seq_len",
                "16"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  ChildResult expect_success(const Words& command, const ChildOptions& options = {}) const {
    ChildResult result = testing::run_child(command, options);
    EXPECT_EQ(result.exit_status, 0) << result.err;
    return result;
  }

  // Fails with `code`; stderr has one "furrow: error:" line, the last one, which holds every part; stdout is
  // empty.
  ChildResult expect_error(const Words& command, ErrorCode code, const Words& parts,
                           const ChildOptions& options = {}) const {
    ChildResult result = testing::run_child(command, options);
    EXPECT_EQ(result.exit_status, exit_status(code)) << result.err;
    EXPECT_EQ(result.out, "");
    Words errors;
    for (const std::string& line : split_lines(result.err)) {
      if (line.starts_with("furrow: error: ")) errors.push_back(line);
    }
    EXPECT_EQ(errors.size(), 1u) << result.err;
    const Words lines = split_lines(result.err);
    EXPECT_TRUE(!errors.empty() && lines.back() == errors.back())
        << "the error is not the last line: " << result.err;
    for (const std::string& part : parts) EXPECT_THAT(result.err, HasSubstr(part));
    for (const char* trace : {"Exception raised from", "frame #", "terminate called", "/furrow/base/"}) {
      EXPECT_EQ(result.err.find(trace), std::string::npos) << result.err;
    }
    return result;
  }

  // The same, before anything of the run exists.
  void expect_refused(const Words& command, ErrorCode code, const Words& parts) const {
    const ChildResult result = expect_error(command, code, parts);
    Words lines = split_lines(result.err);
    std::erase_if(lines, [](const std::string& line) { return line.starts_with("warning: "); });
    EXPECT_EQ(lines.size(), 1u) << result.err;
    EXPECT_FALSE(fs::exists(run_folder()))
        << "a run folder was made: " << ::testing::PrintToString(files_below(run_folder()));
  }

  // Runs `command` with a file system of `mount_options` at path("mount"); false where that is not permitted.
  bool can_mount() const { return testing::run_child(mounted("size=64k", {"/bin/true"})).exit_status == 0; }
  Words mounted(const std::string& mount_options, const Words& command) const {
    fs::create_directories(path("mount"));
    Words words{
        "/usr/bin/env",
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o " + mount_options + " tmpfs '" + path("mount") + "' && exec \"$0\" \"$@\""};
    words.insert(words.end(), command.begin(), command.end());
    return words;
  }

  testing::TemporaryFolder folder_;
};

constexpr ErrorCode kInvalid = ErrorCode::kInvalidArgument;
constexpr ErrorCode kDamaged = ErrorCode::kDataLoss;

// The negative control of every refusal below: without the damage, the same command trains.
TEST_F(BadInput, GoodInputTrains) {
  expect_success(train());
  EXPECT_TRUE(fs::exists(run_folder() + "/model/model.safetensors"));
  EXPECT_TRUE(fs::exists(run_folder() + "/summary.json"));
}

TEST_F(BadInput, MisspeltKeyNamesFileLineAndTheNearest) {
  expect_refused(train({}, "global_batch_sise = 20\n"), kInvalid,
                 {"config.toml:13:", "global_batch_sise", "global_batch_size"});
  expect_refused(train({"--optimizer.lrr", "0.1"}), kInvalid, {"command line", "'lrr'", "did you mean 'lr'"});
  expect_refused(train({}, "[optimiser]\nlr = 1.0\n"), kInvalid,
                 {"config.toml:14:", "optimiser", "did you mean 'optimizer'"});
}

TEST_F(BadInput, WrongTypeNamesFileAndLine) {
  expect_refused(train({}, "max_norm = \"one\"\n"), kInvalid, {"config.toml:13:", "max_norm"});
  expect_refused(train({"--training.steps", "many"}), kInvalid, {"training.steps", "many"});
  expect_refused(train({"--model.hidden", "-4"}), kInvalid, {"model.hidden"});
}

TEST_F(BadInput, ConfigThatIsNotToml) {
  expect_refused(train({}, "steps = = 4\n"), kInvalid, {"config.toml:13"});
}

TEST_F(BadInput, BatchArithmeticShowsTheSum) {
  expect_refused(train({"--training.global_batch_size", "9"}), kInvalid,
                 {"9 is less than one microbatch", "to 9"});
}

TEST_F(BadInput, MissingFiles) {
  expect_refused({binary(), "train", path("none.toml")}, ErrorCode::kNotFound, {"none.toml"});
  const Words elsewhere = train({"--training.dataset_path", path("nowhere")});
  expect_refused(elsewhere, ErrorCode::kNotFound, {path("nowhere"), "dataset_path", "docs/datasets.md"});
  expect_refused(text(path("none.txt")), ErrorCode::kNotFound, {"none.txt", "docs/datasets.md"});
  expect_refused({binary(), "eval", path("no-run")}, ErrorCode::kNotFound, {"no-run"});
}

TEST_F(BadInput, UnknownDatasetAndArchitecture) {
  expect_refused(train({"--training.dataset", "idz"}), kInvalid, {"idz", "idx"});
  expect_refused(train({"--model.name", "mpl"}), kInvalid, {"mpl", "mlp"});
}

TEST_F(BadInput, TruncatedIdx) {
  truncate_to(data() + "/train-images-idx3-ubyte", 0.5);
  expect_refused(train(), kDamaged, {"train-images-idx3-ubyte", "more bytes"});
}

TEST_F(BadInput, DamagedGzip) {
  const std::string images = data() + "/train-images-idx3-ubyte";
  write(images + ".gz", gzip(read_file(images)));
  fs::remove(images);
  expect_success(train());
  fs::remove_all(run_folder());
  flip_bit(images + ".gz", fs::file_size(images + ".gz") / 2);
  expect_refused(train(), kDamaged, {"train-images-idx3-ubyte.gz", "damaged"});
  flip_bit(images + ".gz", fs::file_size(images + ".gz") / 2);
  truncate_to(images + ".gz", 0.7);
  expect_refused(train(), kDamaged, {"train-images-idx3-ubyte.gz", "damaged"});
}

TEST_F(BadInput, WrongMagicAndCounts) {
  flip_bit(data() + "/train-labels-idx1-ubyte", 0);
  expect_refused(train(), kDamaged, {"train-labels-idx1-ubyte", "magic"});
  testing::write_made_up_idx(data(), 300, 60, 12);
  testing::write_made_up_idx(path("fewer"), 200, 60, 12);
  fs::copy_file(path("fewer") + "/train-labels-idx1-ubyte", data() + "/train-labels-idx1-ubyte",
                fs::copy_options::overwrite_existing);
  expect_refused(train(), kDamaged, {"300 images", "200 labels"});
}

TEST_F(BadInput, LabelOutOfRange) {
  const std::string labels = data() + "/train-labels-idx1-ubyte";
  std::string bytes = read_file(labels);
  bytes.back() = static_cast<char>(200);
  write(labels, bytes);
  expect_refused(train(), kInvalid, {"train-labels-idx1-ubyte", "label 200 of sample 299", "out of range"});
}

// Test labels are looked at when the test split is opened, at the end.
TEST_F(BadInput, TestLabelOutOfRange) {
  const std::string labels = data() + "/t10k-labels-idx1-ubyte";
  std::string bytes = read_file(labels);
  bytes.back() = 77;
  write(labels, bytes);
  expect_error(train(), kInvalid, {"t10k-labels-idx1-ubyte", "label 77 of sample 59", "10 classes"});
  EXPECT_FALSE(fs::exists(run_folder() + "/model/model.safetensors"));
  expect_nothing_half_written(run_folder());
}

TEST_F(BadInput, EmptySet) {
  testing::write_made_up_idx(data(), 0, 60, 12);
  expect_refused(train(), kInvalid, {"train-images-idx3-ubyte", "empty set"});
  write(path("empty.txt"), "");
  expect_refused(text(path("empty.txt")), kInvalid, {"empty.txt", "is empty"});
}

TEST_F(BadInput, ContextLongerThanTheText) {
  write(path("short.txt"), "to be or not to be");
  expect_refused(text(path("short.txt"), {"--data.validation_fraction", "0", "--training.seq_len", "64"}),
                 kInvalid, {"short.txt", "18 tokens", "seq_len + 1 = 65"});
}

TEST_F(BadInput, TextThatIsNotUtf8) {
  write(path("latin.txt"), "caf\xe9 " + std::string(2000, 'x'));
  expect_refused(text(path("latin.txt")), kDamaged, {"latin.txt", "0xe9", "offset 3", "not UTF-8"});
}

TEST_F(BadInput, FractionThatLeavesNothing) {
  expect_refused(train({"--data.validation_fraction", "0.9999"}), kInvalid,
                 {"validation_fraction", "nothing"});
}

TEST_F(BadInput, RunFolderThatHoldsARun) {
  expect_success(train());
  const std::string before = read_file(run_folder() + "/summary.json");
  expect_error(train(), ErrorCode::kAlreadyExists, {run_folder(), "--resume"});
  EXPECT_EQ(read_file(run_folder() + "/summary.json"), before);
}

TEST_F(BadInput, DamagedSafetensors) {
  expect_success(train({"--checkpoint.enable", "false"}));
  const std::string model = run_folder() + "/model/model.safetensors";
  const std::string good = read_file(model);
  const Words eval{binary(), "eval", run_folder()};
  expect_success(eval);
  flip_bit(model, good.size() - 3);
  expect_error(eval, kDamaged, {"model.safetensors"});
  write(model, good);
  truncate_to(model, 0.9);
  expect_error(eval, kDamaged, {"model.safetensors"});
  write(model, good);
  flip_bit(model, 2);  // length of the header
  expect_error(eval, kDamaged, {"model.safetensors"});
}

class DamagedCheckpoint : public BadInput {
 protected:
  void SetUp() override {
    BadInput::SetUp();
    expect_success(train(
        {"--optimizer.momentum", "0.9", "--checkpoint.interval", "2", "--checkpoint.keep_latest_k", "0"}));
    expected_ = read_file(run_folder() + "/model/model.safetensors");
    fs::remove_all(run_folder() + "/model");
    fs::remove(run_folder() + "/summary.json");
  }
  std::string newest() const { return run_folder() + "/checkpoints/step-00000006"; }
  Words resume() const { return {binary(), "train", run_folder(), "--resume"}; }

  // The newest is named, the one before it used, and the run ends with the same weights.
  void expect_fallback() {
    const ChildResult result = expect_success(resume());
    EXPECT_THAT(result.err, HasSubstr("step-00000006"));
    EXPECT_THAT(result.err, HasSubstr("resuming at step 4"));
    EXPECT_EQ(read_file(run_folder() + "/model/model.safetensors"), expected_);
  }

  std::string expected_;
};

TEST_F(DamagedCheckpoint, BitFlip) {
  const std::string piece = newest() + "/model.safetensors";
  flip_bit(piece, fs::file_size(piece) - 5);
  expect_fallback();
}

TEST_F(DamagedCheckpoint, TruncatedPiece) {
  truncate_to(newest() + "/optimizer.safetensors", 0.8);
  expect_fallback();
}

TEST_F(DamagedCheckpoint, DamagedManifest) {
  const std::string manifest = newest() + "/manifest.json";
  flip_bit(manifest, fs::file_size(manifest) / 2);
  expect_fallback();
}

TEST_F(DamagedCheckpoint, AllOfThem) {
  for (const auto& entry : fs::directory_iterator(run_folder() + "/checkpoints")) {
    flip_bit(entry.path() / "model.safetensors", fs::file_size(entry.path() / "model.safetensors") - 5);
  }
  expect_error(resume(), kDamaged, {"checkpoints"});
}

TEST_F(BadInput, DiskFullWhileSaving) {
  const bool mount = can_mount();
  if (!mount) std::fprintf(stderr, "NOTE: no mount namespace here, so the full disk is a failpoint\n");
  const Words more{"--model.hidden", "[256]", "--checkpoint.interval", "3"};
  if (mount) {
    Words with_folder = more;
    with_folder.insert(with_folder.end(), {"--checkpoint.folder", path("mount") + "/checkpoints"});
    // Room for less than the 161 KB of weights.
    expect_error(mounted("size=64k", train(with_folder)), ErrorCode::kResourceExhausted,
                 {"checkpoint", "space"});
  } else {
    expect_error(train(more), ErrorCode::kResourceExhausted, {"checkpoint"},
                 {.environment = {{"FURROW_FAILPOINTS", "checkpoint.after_piece=enospc"}}});
  }
  expect_nothing_half_written(run_folder());
}

TEST_F(BadInput, DiskFullAtEveryWriteOfAFile) {
  for (int pass = 1; pass <= 3; ++pass) {
    SCOPED_TRACE(pass);
    fs::remove_all(run_folder());
    expect_error(train({"--checkpoint.interval", "3"}), ErrorCode::kResourceExhausted, {},
                 {.environment = {{"FURROW_FAILPOINTS", "file.write=enospc@" + std::to_string(pass)}}});
    expect_nothing_half_written(run_folder());
  }
}

TEST_F(BadInput, DiskFullFreesUpAndTheRunGoesOn) {
  expect_error(train({"--checkpoint.interval", "2"}), ErrorCode::kResourceExhausted, {},
               {.environment = {{"FURROW_FAILPOINTS", "checkpoint.before_manifest=enospc@2"}}});
  expect_nothing_half_written(run_folder());
  const ChildResult result = expect_success({binary(), "train", run_folder(), "--resume"});
  EXPECT_THAT(result.err, HasSubstr("resuming at step 2"));
}

TEST_F(BadInput, ReadOnlyFolderWhileSaving) {
  if (!can_mount()) {
    std::fprintf(stderr, "SKIPPED: no mount namespace here, and root writes into every folder\n");
    GTEST_SKIP() << "a read-only file system cannot be mounted";
  }
  const Words command =
      train({"--checkpoint.folder", path("mount") + "/checkpoints", "--checkpoint.interval", "3"});
  expect_error(mounted("ro", command), ErrorCode::kPermissionDenied, {path("mount")});
  expect_nothing_half_written(run_folder());
}

TEST_F(BadInput, ReadOnlyRunFolder) {
  if (!can_mount()) {
    std::fprintf(stderr, "SKIPPED: no mount namespace here, and root writes into every folder\n");
    GTEST_SKIP() << "a read-only file system cannot be mounted";
  }
  Words command = train();
  command[4] = path("mount") + "/run";
  expect_error(mounted("ro", command), ErrorCode::kPermissionDenied, {path("mount")});
}

// A learning rate that throws the weights out of range in the first step: the loss of the second is not
// finite.
const Words kDiverging = {"--optimizer.lr",        "1e30", "--training.max_norm",        "0",
                          "--checkpoint.interval", "0",    "--data.validation_fraction", "0"};

TEST_F(BadInput, NanLossStops) {
  expect_error(train(kDiverging), ErrorCode::kFailedPrecondition,
               {"step 2", "unit fc", "norm", "optimizer", "lr"});
  EXPECT_FALSE(fs::exists(run_folder() + "/model"));
  expect_nothing_half_written(run_folder());
}

TEST_F(BadInput, NanLossSkipLeavesTheParametersAsTheyWere) {
  const auto weights_after = [&](const std::string& steps) {
    fs::remove_all(run_folder());
    Words more = kDiverging;
    more.insert(more.end(), {"--training.nan_policy", "skip", "--training.steps", steps});
    const ChildResult result = expect_success(train(more));
    if (steps != "1") {
      EXPECT_THAT(result.err, HasSubstr("step 2"));
      EXPECT_THAT(result.err, HasSubstr("skipped"));
    }
    return read_file(run_folder() + "/model/model.safetensors");
  };
  const std::string one = weights_after("1");
  EXPECT_EQ(weights_after("4"), one);
  fs::remove_all(run_folder());
  expect_success(train({"--training.steps", "1"}));  // negative control
  EXPECT_NE(read_file(run_folder() + "/model/model.safetensors"), one);
}

TEST_F(BadInput, UnknownCommandAndOption) {
  expect_error({binary(), "trian"}, kInvalid, {"trian", "train"});
  const ChildResult option = testing::run_child({binary(), "train", config(), "--resum"});
  EXPECT_EQ(option.exit_status, 2);
  EXPECT_THAT(option.err, HasSubstr("--resume"));
}

}  // namespace
}  // namespace furrow
