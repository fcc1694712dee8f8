// Whole runs and their data: image folders as networks for large images read them, values that were fitted.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "furrow/storage/artefact.h"
#include "furrow/train/session.h"
#include "tests/testing/fuzz_replay.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

class SessionData : public ::testing::Test, protected testing::TrainingRuns {};

// A residual network for large images on a folder of JPEG, regions at random: trained, resumed and evaluated.
TEST_F(SessionData, Resnet18ReadsFoldersAsItIsUsedTo) {
  const std::filesystem::path images = testing::source_root() / "furrow/data/image_file_fuzz_corpus";
  for (const std::string split : {"train", "test"}) {
    for (const std::string name : {"rgb", "grey"}) {
      const std::filesystem::path folder = run("images") + "/" + split + "/" + name;
      std::filesystem::create_directories(folder);
      for (const char* copy : {"1.jpg", "2.jpg", "3.jpg"})
        std::filesystem::copy(images / (name + ".jpg"), folder / copy);
    }
  }
  config::Config settings = config::parse(R"(
    [model]
    name = "resnet18"
    [training]
    dataset = "folder"
    local_batch_size = 4
    steps = 2
    threads = 1
    [data]
    resize_size = 36
    crop_size = 32
    random_resized_crop = true
    random_flip = true
    validation_fraction = 0
    [checkpoint]
    interval = 1
  )",
                                          "session_data_test", {"--training.dataset_path", run("images")});
  settings.checkpoint.enable = false;  // of 90 MB
  const observe::Summary whole = train_run("whole", settings);
  settings.checkpoint.enable = true;
  EXPECT_TRUE(std::isfinite(whole.loss.value()));
  EXPECT_EQ(evaluate(run("whole"), "test", settings).loss, *whole.test_loss);
  train_run("parts", settings);
  std::filesystem::remove_all(run("parts") + "/checkpoints/step-00000002");
  std::filesystem::remove_all(run("parts") + "/model");
  train_run("parts", settings, /*resume=*/true);
  EXPECT_TRUE(weights("whole") == weights("parts"));  // 45 MB, not to be printed
}

// Values fitted at the beginning, though the data have grown since.
TEST_F(SessionData, AResumeReadsDataAsTheRunBegan) {
  const auto config = [&](const char* steps = "20") {
    return config::parse(
        "[model]\nname = \"mlp\"\nhidden = [32]\n[training]\nlocal_batch_size = 16\nthreads = 1\n",
        "session_data_test",
        {"--training.dataset_path", folder_.path() + "/data", "--training.steps", steps});
  };
  made_up_images(600);
  train_run("a", config());
  const auto fitted = [&] { return storage::read_artefact(run("a") + "/model").preprocessing; };
  const preprocess::State before = fitted();
  made_up_images(900);
  train_run("other", config());
  EXPECT_NE(storage::read_artefact(run("other") + "/model").preprocessing, before) << "control";
  train_run("a", config("40"), /*resume=*/true);
  EXPECT_EQ(fitted(), before);
  std::filesystem::remove_all(run("a") + "/model");
  const double kept = evaluate(run("a"), "test", config()).loss;
  std::filesystem::remove(run("a") + "/preprocessing.json");
  EXPECT_NE(evaluate(run("a"), "test", config()).loss, kept) << "control: fitted anew";
}

// Ranks of one program that brings no data: the values are those of the run, or rank 0's, never each rank's
// own.
TEST_F(SessionData, RanksReadDataAsTheRunBegan) {
  const auto train_on_ranks = [&](const char* steps, bool resume) {
    testing::run_ranks(2, [&](comm::Communicator& communicator) {
      TrainRequest request;
      request.config = config::parse(
          "[model]\nname = \"mlp\"\nhidden = [32]\n[training]\nlocal_batch_size = 16\nthreads = 1\n",
          "session_data_test",
          {"--training.dataset_path", folder_.path() + "/data", "--training.steps", steps});
      request.run_folder = run("ranks");
      request.resume = resume;
      request.communicator = &communicator;
      train(request);
    });
    return storage::read_artefact(run("ranks") + "/model").preprocessing;
  };
  made_up_images(600);
  const preprocess::State before = train_on_ranks("5", false);
  made_up_images(900);
  EXPECT_EQ(train_on_ranks("10", true), before);
  std::filesystem::remove(run("ranks") + "/preprocessing.json");
  EXPECT_NE(train_on_ranks("15", true), before) << "control: fitted anew";
}

}  // namespace
}  // namespace furrow::train
