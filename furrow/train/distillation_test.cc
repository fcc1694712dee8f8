// What a teacher does in a step, what a step leaves of it, and which teachers a run refuses.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/models/teacher.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/train/executor_torch.h"
#include "tests/testing/tiny_training_torch.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;
using testing::TinyTraining;

// A step of a model beside a teacher that is a copy of it.
class Twins {
 public:
  Twins(const std::string& network, double alpha) : tiny_(testing::tiny(network)) {
    tiny_.config.training.objective = "distillation";
    tiny_.config.distillation.alpha = alpha;
    own_ = tiny_.spec.units.size();
    const plan::ModelSpec teacher = tiny_.spec;
    models::add_teacher(teacher, &tiny_.spec);
    rule_ = std::make_unique<OptimizerRule>(tiny_.rule());
    model_ = std::make_unique<ModelState>(tiny_.trained_spec(), rule_->states(), /*seed=*/42);
    for (size_t u = 0; u < own_; ++u) {
      const at::Tensor& params = unit(u).params;
      if (params.defined()) unit(own_ + u).params.copy_(params);
    }
  }

  RunOutputs step() {
    plan::TrainOptions options{{8}, {}, plan::forms_of(rule_->states())};
    const plan::Program program = plan::compile_train(model_->spec(), plan::Layout(), options);
    RankContext rank;
    rank.threads = 1;
    rank.seed = 42;
    const Objective objective = tiny_.objective();
    Executor executor(program, *model_, objective, rule_.get(), rank);
    data::Loader loader(*tiny_.source, data::SampleOrder(42, tiny_.source->size(), true), {.sizes = {8}});
    RunInputs inputs;
    inputs.loader = &loader;
    inputs.rates = {tiny_.config.optimizer.lr, tiny_.config.optimizer.beta1};
    return executor.run(inputs);
  }

  size_t own() const { return own_; }
  UnitState& unit(size_t u) { return model_->unit(static_cast<int>(u)); }

 private:
  TinyTraining tiny_;
  size_t own_ = 0;
  std::unique_ptr<OptimizerRule> rule_;
  std::unique_ptr<ModelState> model_;
};

TEST(Distillation, ACopyOfTheModelHasNothingToTeach) {
  Twins twins("mlp", 1);
  const RunOutputs outputs = twins.step();
  EXPECT_NEAR(outputs.loss.mean(), 0, 1e-6);
  EXPECT_NEAR(outputs.scale.norm, 0, 1e-6);
  EXPECT_GT(Twins("mlp", 0.5).step().scale.norm, 1e-3) << "control: the targets do";
}

TEST(Distillation, ATeacherHasNoStateAndStaysAsItIs) {
  Twins twins("mlp", 0.5);
  std::vector<at::Tensor> before;
  for (size_t u = 0; u < 2 * twins.own(); ++u) before.push_back(twins.unit(u).params.clone());
  twins.step();
  for (size_t u = 0; u < 2 * twins.own(); ++u) {
    const bool teachers = u >= twins.own();
    EXPECT_EQ(twins.unit(u).params.equal(before[u]), teachers);
    for (const at::Tensor& state : twins.unit(u).states) EXPECT_EQ(state.numel() == 0, teachers);
  }
}

// Batch norm by running statistics, which training does not move: not what the model says of the same batch.
TEST(Distillation, ATeacherRunsAsInEvaluation) {
  Twins twins("resnet", 1);
  const at::Tensor before = twins.unit(twins.own()).statistics.clone();
  const at::Tensor own = twins.unit(0).statistics.clone();
  EXPECT_GT(twins.step().loss.mean(), 1e-3);
  EXPECT_TRUE(twins.unit(twins.own()).statistics.equal(before));
  EXPECT_FALSE(twins.unit(0).statistics.equal(own)) << "control";
}

class TeacherOfARun : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  void SetUp() override {
    for (const char* const name : {"text", "other"}) {
      std::string text;
      for (int i = 0; i < 400; ++i)
        text.push_back(static_cast<char>((name[0] == 't' ? 'a' : 'b') + i * i % 11));
      write_file_atomic(run(name), text);
    }
  }

  config::Config config(const std::string& text, const std::string& tokenizer) const {
    return config::parse(R"(
      [model]
      name = "gpt"
      layers = 1
      heads = 2
      width = 16
      [training]
      dataset = "text"
      seq_len = 8
      local_batch_size = 4
      steps = 2
      threads = 1
      [data]
      validation_fraction = 0.1
      [metrics]
      enable_plots = false
    )",
                         "distillation_test",
                         {"--training.dataset_path", run(text), "--data.tokenizer", tokenizer});
  }

  config::Config student(const std::string& text, const std::string& tokenizer) const {
    config::Config config = this->config(text, tokenizer);
    config.training.objective = "distillation";
    config.distillation.teacher = run("teacher") + "/model";
    return config;
  }

  Error error_of(const std::string& name, const config::Config& config, bool resume = false) const {
    try {
      train_run(name, config, resume);
    } catch (const Error& error) {
      return error;
    }
    return {ErrorCode::kInternal, "no error"};
  }
};

TEST_F(TeacherOfARun, IsRefusedWhenItReadsOtherInputs) {
  train_run("teacher", config("text", "char"));
  EXPECT_EQ(train_run("same", student("text", "char")).status, "finished") << "control";
  const Error kinds = error_of("bytes", student("text", "byte"));
  EXPECT_EQ(kinds.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(kinds.what(), HasSubstr(run("teacher") + "/model"));
  EXPECT_THAT(kinds.what(), HasSubstr("'char' prepared, this run's data is prepared by 'byte'"));
  // As many characters, and others.
  EXPECT_THAT(error_of("letters", student("other", "char")).what(), HasSubstr("of another alphabet"));
}

// A teacher over samples of another length: its weights are those that it was trained to, and it gives as
// many rows as the model.  Positions that it has not learned are refused with both numbers.
TEST_F(TeacherOfARun, TeachesSamplesOfAnotherLength) {
  for (const char* const name : {"lstm", "rnn", "llama", "gpt"}) {
    config::Config teacher = config("text", "char");
    teacher.model.name = name;
    const std::string folder = "teacher-" + std::string(name);
    train_run(folder, teacher);
    for (const int64_t length : {3, 8, 12}) {
      SCOPED_TRACE(std::string(name) + " " + std::to_string(length));
      config::Config student = this->student("text", "char");
      student.model.name = "lstm";
      student.training.seq_len = length;
      student.distillation.teacher = run(folder) + "/model";
      const std::string own = std::string(name) + std::to_string(length);
      if (std::string(name) != "gpt" || length <= 8) {
        EXPECT_EQ(train_run(own, student).status, "finished");
        continue;
      }
      const Error error = error_of(own, student);
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), HasSubstr("it has learned 8 positions"));
      EXPECT_THAT(error.what(),
                  HasSubstr("samples here have 12 tokens: set [training] seq_len to 8 or less"));
    }
  }
}

TEST_F(TeacherOfARun, IsNeededToGoOn) {
  train_run("teacher", config("text", "char"));
  config::Config longer = student("text", "char");
  train_run("a", longer);
  longer.training.steps = 4;
  std::filesystem::rename(run("teacher"), run("moved"));
  const Error gone = error_of("a", longer, /*resume=*/true);
  EXPECT_EQ(gone.code(), ErrorCode::kNotFound);
  EXPECT_THAT(gone.what(), HasSubstr("name where it is now with --distillation.teacher"));
  EXPECT_THAT(error_of("b", longer).what(), ::testing::Not(HasSubstr("checkpoint"))) << "control: no resume";
  longer.distillation.teacher = run("moved") + "/model";
  EXPECT_EQ(train_run("a", longer, /*resume=*/true).steps, 4);
}

}  // namespace
}  // namespace furrow::train
