// Whole runs in one process: resume, early stopping, the best model, non-finite policy, recipes, two sessions
// at once.
#include "furrow/train/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <thread>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/storage/safetensors.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

class Session : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  void SetUp() override { made_up_images(); }

  config::Config config(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> all = {"--training.dataset_path", folder_.path() + "/data"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return config::parse(R"(
      [model]
      name = "mlp"
      hidden = [32]
      [training]
      local_batch_size = 16
      global_batch_size = 32
      steps = 40
      threads = 1
      [optimizer]
      lr = 3e-3
      [validation]
      freq = 10
      [checkpoint]
      interval = 10
      [metrics]
      log_freq = 5
    )",
                         "session_test", all);
  }
};

ErrorCode code_of(const std::function<void()>& fn, std::string* message = nullptr) {
  try {
    fn();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kInternal;
}

TEST_F(Session, LearnsAndIsEvaluatedAlike) {
  const observe::Summary summary = train_run("a", config());
  EXPECT_EQ(summary.status, "finished");
  EXPECT_EQ(summary.steps, 40);
  EXPECT_EQ(summary.samples, 40 * 32);
  EXPECT_GT(*summary.test_accuracy, 0.8);
  const EvalResult test = evaluate(run("a"), "test", config());
  EXPECT_EQ(test.samples, 100);
  EXPECT_EQ(test.loss, *summary.test_loss);
  EXPECT_EQ(test.accuracy, *summary.test_accuracy);
  // All of them, however many at a time: six sixteens and four, or 25 fours.
  EXPECT_EQ(evaluate(run("a"), "test", config({"--training.local_batch_size", "4"})).loss, test.loss);
  const EvalResult validation = evaluate(run("a"), "validation", config());
  EXPECT_EQ(validation.loss, *summary.validation_loss);
  EXPECT_NE(validation.loss, test.loss);
}

TEST_F(Session, ACheckpointServesEvaluationWhenThereIsNoModel) {
  const observe::Summary summary = train_run("a", config({"--validation.enable", "false"}));
  std::filesystem::remove_all(run("a") + "/model");
  EXPECT_EQ(evaluate(run("a"), "test", config()).loss, *summary.test_loss);
}

TEST_F(Session, CancelledAndResumedEndsAlike) {
  train_run("whole", config());
  CancelToken cancel;
  struct CancelAt : observe::Sink {
    explicit CancelAt(CancelToken* token) : token(token) {}
    void begin(const std::string&, const std::string&, int64_t) override {}
    void log(const observe::StepRecord& record) override {
      if (record.step == 25) token->cancel();
    }
    void artifact(const std::string&, const std::string&) override {}
    void end(const std::string& status) override { last_status = status; }
    CancelToken* token;
    std::string last_status;
  } sink(&cancel);
  TrainRequest request;
  request.config = config();
  request.run_folder = run("parts");
  request.cancel = &cancel;
  request.sinks = {&sink};
  EXPECT_EQ(train(request).status, "interrupted");
  EXPECT_EQ(sink.last_status, "interrupted");
  EXPECT_FALSE(std::filesystem::exists(run("parts") + "/model"));
  const observe::Summary resumed = train_run("parts", config(), /*resume=*/true);
  EXPECT_EQ(resumed.status, "finished");
  EXPECT_EQ(weights("whole"), weights("parts"));
  EXPECT_EQ(observe::read_metrics(run("whole") + "/metrics.jsonl").size(),
            observe::read_metrics(run("parts") + "/metrics.jsonl").size());
}

// Every text architecture, cut after step 6 of 9 in the middle of an epoch.
TEST_F(Session, EveryTextArchitectureResumesToTheSameBits) {
  std::string text;
  for (int i = 0; i < 600; ++i) text += "abcdefgh \n"[(i * i + i / 7) % 10];
  write_file_atomic(folder_.path() + "/text", text);
  for (const std::string name : {"gpt", "llama", "rnn", "lstm"}) {
    const auto text_config = [&](const char* steps) {
      std::vector<std::string> overrides = {"--training.dataset",    "text", "--training.seq_len", "8",
                                            "--model.name",          name,   "--model.layers",     "2",
                                            "--model.width",         "16",   "--training.steps",   steps,
                                            "--checkpoint.interval", "3"};
      config::Config result = config(overrides);
      result.training.dataset_path = folder_.path() + "/text";
      return result;
    };
    const observe::Summary whole = train_run(name + "-whole", text_config("9"));
    train_run(name + "-parts", text_config("9"));
    std::filesystem::remove_all(run(name + "-parts") + "/checkpoints/step-00000009");
    std::filesystem::remove_all(run(name + "-parts") + "/model");
    const observe::Summary resumed = train_run(name + "-parts", text_config("9"), /*resume=*/true);
    EXPECT_EQ(resumed.steps, 9);
    EXPECT_EQ(resumed.loss, whole.loss);
    EXPECT_EQ(weights(name + "-whole"), weights(name + "-parts")) << name;
    config::Config other = text_config("9");
    other.debug.seed = 5;  // control: another seed is another file
    train_run(name + "-other", other);
    EXPECT_NE(weights(name + "-whole"), weights(name + "-other")) << name;
  }
}

// A damaged checkpoint is passed over for an older one; where none is whole nothing starts anew in its place.
TEST_F(Session, DamagedCheckpointsArePassedOverAndNotForgotten) {
  const config::Config twenty = config({"--training.steps", "20"});
  train_run("whole", twenty);
  train_run("damaged", twenty);
  const auto damage = [&](const std::string& checkpoints) {
    int files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(checkpoints)) {
      if (entry.path().extension() != ".safetensors") continue;
      std::filesystem::resize_file(entry.path(), entry.file_size() - 1);
      ++files;
    }
    EXPECT_GT(files, 0) << checkpoints;
    std::filesystem::remove_all(run("damaged") + "/model");
  };
  damage(run("damaged") + "/checkpoints/step-00000020");
  train_run("damaged", twenty, /*resume=*/true);
  EXPECT_EQ(weights("damaged"), weights("whole"));
  damage(run("damaged") + "/checkpoints");
  std::string message;
  EXPECT_EQ(code_of([&] { train_run("damaged", twenty, /*resume=*/true); }, &message), ErrorCode::kDataLoss);
  EXPECT_NE(message.find("every checkpoint in "), std::string::npos) << message;
  EXPECT_FALSE(std::filesystem::exists(run("damaged") + "/model"));
}

// An average of the weights is what is validated, exported and evaluated, and goes on over a resume.
TEST_F(Session, TheAverageOfTheWeightsIsEvaluatedExportedAndResumed) {
  for (const std::string precision : {"float32", "bfloat16"}) {
    SCOPED_TRACE(precision);
    const std::vector<std::string> base = {"--training.mixed_precision_param", precision,
                                           "--optimizer.groups", "fc1.bias frozen=true"};
    const auto averaged = [&](std::vector<std::string> more = {}) {
      more.insert(more.end(), base.begin(), base.end());
      more.insert(more.end(), {"--ema.decay", "0.9"});
      return config(more);
    };
    const auto name = [&](const char* part) { return precision + "-" + part; };
    const observe::Summary whole = train_run(name("whole"), averaged());
    train_run(name("plain"), config(base));
    EXPECT_NE(weights(name("whole")), weights(name("plain")));
    EXPECT_EQ(evaluate(run(name("whole")), "test", averaged()).loss, *whole.test_loss);
    train_run(name("parts"), averaged());
    std::filesystem::remove_all(run(name("parts")) + "/checkpoints/step-00000040");
    std::filesystem::remove_all(run(name("parts")) + "/model");
    train_run(name("parts"), averaged(), /*resume=*/true);
    EXPECT_EQ(weights(name("whole")), weights(name("parts")));
    // Without validation, the average of the last step: from the run's own end, and from its checkpoint.
    const observe::Summary last = train_run(name("last"), averaged({"--validation.enable", "false"}));
    std::filesystem::remove_all(run(name("last")) + "/model");
    EXPECT_EQ(evaluate(run(name("last")), "test", averaged()).loss, *last.test_loss);
    EXPECT_NE(evaluate(run(name("last")), "test", config(base)).loss, *last.test_loss)
        << "control: the weights themselves";
  }
}

// Batch norm by the average of its statistics beside the average of the weights, not by what the steps left.
TEST_F(Session, TheAverageOfTheStatisticsGoesWithThatOfTheWeights) {
  const config::Config averaged =
      config({"--model.name", "blocks", "--model.units",
              R"(["stem: conv_norm out_channels=4", "fc: pool_linear out=classes"])", "--training.steps",
              "20", "--validation.enable", "false", "--ema.decay", "0.9"});
  const observe::Summary last = train_run("last", averaged);
  const storage::SafetensorsFile model(run("last") + "/model/model.safetensors");
  const auto checkpoint = storage::CheckpointReader::open(run("last") + "/checkpoints/step-00000020");
  const auto kept = [&](const std::string& name) {
    std::vector<float> values(4);
    checkpoint.read(name, ArrayView{DType::kF32, {4}, std::as_writable_bytes(std::span(values)), {}});
    return values;
  };
  for (const std::string name : {"stem.bn1.running_mean", "stem.bn1.running_var"}) {
    std::vector<float> exported(4);
    model.read(name, ArrayView{DType::kF32, {4}, std::as_writable_bytes(std::span(exported)), {}});
    EXPECT_EQ(exported, kept("optimizer.ema/" + name)) << name;
    EXPECT_NE(exported, kept(name)) << "control";
  }
  std::filesystem::remove_all(run("last") + "/model");
  EXPECT_EQ(evaluate(run("last"), "test", averaged).loss, *last.test_loss);
}

// Adapters beside the weights of another run: resumed, merged in the exported model, and read again.
TEST_F(Session, AdaptersAreResumedMergedAndReadAgain) {
  train_run("base", config({"--validation.enable", "false"}));
  for (const std::string precision : {"float32", "bfloat16"}) {
    SCOPED_TRACE(precision);
    const auto adapted = [&](std::vector<std::string> more = {}) {
      more.insert(more.end(),
                  {"--training.mixed_precision_param", precision, "--lora.rank", "4", "--lora.dropout", "0.1",
                   "--checkpoint.initial_load_path", run("base") + "/model", "--validation.enable", "false"});
      return config(more);
    };
    const auto name = [&](const char* part) { return precision + "-" + part; };
    const auto adapters = [&](const char* part) {
      return read_file(run(name(part)) + "/adapter/adapter_model.safetensors");
    };
    const config::Config settings = adapted({"--optimizer.groups", "*.lora_B.weight lr=1e-2"});
    const observe::Summary whole = train_run(name("whole"), settings);
    train_run(name("parts"), settings);
    std::filesystem::remove_all(run(name("parts")) + "/checkpoints/step-00000040");
    std::filesystem::remove_all(run(name("parts")) + "/model");
    std::filesystem::remove_all(run(name("parts")) + "/adapter");
    train_run(name("parts"), settings, /*resume=*/true);
    EXPECT_EQ(weights(name("whole")), weights(name("parts")));
    EXPECT_EQ(adapters("whole"), adapters("parts"));
    EXPECT_NE(weights(name("whole")), weights("base"));

    const double margin = precision == "float32" ? 1e-5 : 2e-2;
    EXPECT_NEAR(evaluate(run(name("whole")), "test", settings).loss, *whole.test_loss, margin);
    const observe::Summary again =
        train_run(name("again"), adapted({"--lora.adapter_path", run(name("whole")) + "/adapter",
                                          "--training.steps", "1", "--optimizer.lr", "1e-30"}));
    EXPECT_NEAR(*again.test_loss, *whole.test_loss, 1e-6);
    const observe::Summary without =
        train_run(name("without"), adapted({"--training.steps", "1", "--optimizer.lr", "1e-30"}));
    EXPECT_GT(std::abs(*without.test_loss - *whole.test_loss), 1e-3) << "control";
  }
}

// An adapter beside one of two tied weights: merged they are two, here and for whoever starts from them.
TEST_F(Session, MergedAdaptersPartTiedWeights) {
  std::string letters;
  for (int i = 0; i < 3000; ++i) letters += static_cast<char>('a' + i * i % 11);
  write_file_atomic(folder_.path() + "/text.txt", letters);
  const auto tied = [&](std::vector<std::string> more = {}) {
    more.insert(more.end(),
                {"--model.name",         "gpt",  "--model.layers",          "1",
                 "--model.heads",        "1",    "--model.width",           "16",
                 "--training.dataset",   "text", "--training.dataset_path", folder_.path() + "/text.txt",
                 "--training.seq_len",   "8",    "--data.tokenizer",        "char",
                 "--data.test_fraction", "0.1",  "--training.steps",        "20"});
    return config(more);
  };
  const config::Config settings =
      tied({"--lora.rank", "2", "--lora.target_modules", "c_attn,wte,lm_head", "--optimizer.lr", "1e-2"});
  const observe::Summary summary = train_run("tied", settings);
  EXPECT_NEAR(evaluate(run("tied"), "test", settings).loss, *summary.test_loss, 1e-5);
  EXPECT_NE(read_file(run("tied") + "/model/model.toml").find("tie_embeddings = false"), std::string::npos);
  const std::string from = run("tied") + "/model";
  std::string message;
  EXPECT_EQ(code_of([&] { train_run("on", tied({"--checkpoint.initial_load_path", from})); }, &message),
            ErrorCode::kFailedPrecondition);
  EXPECT_NE(message.find("wte.weight and lm_head.weight, which are one here: set [model] tie_embeddings"),
            std::string::npos)
      << message;
  const observe::Summary on =
      train_run("apart", tied({"--checkpoint.initial_load_path", from, "--model.tie_embeddings=false",
                               "--training.steps", "1", "--optimizer.lr", "1e-30"}));
  EXPECT_NEAR(*on.test_loss, *summary.test_loss, 1e-5);
}

// Overflow at the start is no failure; the loss scale goes on over a resume in the middle of an interval.
TEST_F(Session, TheLossScaleIsResumedAndItsStepsAreCounted) {
  const auto half = [&](std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--training.mixed_precision_param", "float16", "--grad_scaler.init_scale",
                             "1073741824", "--grad_scaler.growth_interval", "7", "--metrics.log_freq", "1"});
    return config(more);
  };
  const observe::Summary whole = train_run("whole", half());
  EXPECT_EQ(whole.status, "finished");
  EXPECT_GT(*whole.test_accuracy, 0.6);
  train_run("parts", half());
  std::filesystem::remove_all(run("parts") + "/checkpoints/step-00000040");
  std::filesystem::remove_all(run("parts") + "/model");
  train_run("parts", half(), /*resume=*/true);
  EXPECT_EQ(weights("whole"), weights("parts"));
  const auto value_of = [](const observe::StepRecord& record, const std::string& key) {
    for (const auto& [name, value] : record.values) {
      if (name == key) return value;
    }
    return -1.0;
  };
  std::vector<double> scales, skipped;
  for (const observe::StepRecord& record : observe::read_metrics(run("whole") + "/metrics.jsonl")) {
    if (value_of(record, "loss_scale") < 0) continue;
    scales.push_back(value_of(record, "loss_scale"));
    skipped.push_back(value_of(record, "skipped_steps"));
  }
  ASSERT_EQ(scales.size(), 40u);
  EXPECT_EQ(scales[0], 536870912.0);
  EXPECT_EQ(skipped[0], 1);
  EXPECT_GT(skipped.back(), 5);
  EXPECT_LT(skipped.back(), 30);
  EXPECT_NE(std::ranges::adjacent_find(scales, std::less<>()), scales.end()) << "it grows again";
}

TEST_F(Session, StopsEarlyAndExportsTheBest) {
  // No later validation gains as much as min_delta asks for, so that the first stays the best.
  const observe::Summary summary =
      train_run("a", config({"--validation.min_delta", "100", "--validation.freq", "2",
                             "--validation.patience", "3", "--training.steps", "200"}));
  EXPECT_EQ(summary.status, "stopped early");
  EXPECT_EQ(*summary.best_step, 2);
  EXPECT_EQ(summary.steps, 2 + 3 * 2);
  const auto records = observe::read_metrics(run("a") + "/metrics.jsonl");
  const auto last = records.back().values;
  ASSERT_EQ(last[0].first, "validation_loss");
  EXPECT_NE(last[0].second, *summary.validation_loss);
  EXPECT_EQ(evaluate(run("a"), "validation", config()).loss, *summary.validation_loss);
}

TEST_F(Session, NonFiniteLossStopsOrIsSkipped) {
  std::string message;
  const std::vector<std::string> wild = {"--optimizer.name",    "sgd", "--optimizer.lr", "1e30",
                                         "--training.max_norm", "0"};
  EXPECT_EQ(code_of([&] { train_run("stop", config(wild)); }, &message), ErrorCode::kFailedPrecondition);
  EXPECT_NE(message.find("step "), std::string::npos) << message;
  EXPECT_NE(message.find("unit fc"), std::string::npos) << message;
  EXPECT_NE(message.find("nan_policy"), std::string::npos) << message;
  std::vector<std::string> skip = wild;
  skip.insert(skip.end(), {"--training.nan_policy", "skip"});
  const observe::Summary summary = train_run("skip", config(skip));
  EXPECT_EQ(summary.steps, 40);
}

TEST_F(Session, AnotherRecipeIsRefusedWhenStrict) {
  train_run("a", config({"--training.steps", "20"}));
  const config::Config longer = config({"--training.steps", "30", "--debug.deterministic", "strict"});
  std::string message;
  EXPECT_EQ(code_of([&] { train_run("a", longer, true); }, &message), ErrorCode::kFailedPrecondition);
  EXPECT_NE(message.find("training.steps"), std::string::npos) << message;
  EXPECT_EQ(train_run("a", config({"--training.steps", "30"}), true).steps, 30);
}

TEST_F(Session, StartsFromAnotherRunsWeights) {
  train_run("a", config());
  const config::Config from = config({"--checkpoint.initial_load_path", run("a") + "/model", "--optimizer.lr",
                                      "1e-30", "--optimizer.weight_decay", "0", "--training.steps", "1"});
  train_run("b", from);
  EXPECT_EQ(weights("a"), weights("b"));
  EXPECT_EQ(code_of([&] { train_run("c", config({"--checkpoint.initial_load_path", run("nowhere")})); }),
            ErrorCode::kNotFound);
}

TEST_F(Session, ARunIsNotOverwritten) {
  train_run("a", config());
  EXPECT_EQ(code_of([&] { train_run("a", config()); }), ErrorCode::kAlreadyExists);
}

// So that a launcher that starts ranks again can give one command.
TEST_F(Session, AResumeBeginsARunThatIsNotThere) {
  train_run("a", config());
  EXPECT_EQ(train_run("none", config(), true).steps, train_run("b", config()).steps);
  EXPECT_EQ(weights("none"), weights("a"));
}

TEST_F(Session, TwoAtOnceAreAsGoodAsAlone) {
  train_run("alone", config());
  std::thread first([&] { train_run("first", config()); });
  std::thread second([&] { train_run("second", config({"--debug.seed", "5"})); });
  first.join();
  second.join();
  EXPECT_EQ(weights("alone"), weights("first"));
  EXPECT_NE(weights("alone"), weights("second"));
}

}  // namespace
}  // namespace furrow::train
