// Runs whose classes count differently: balanced weights are those of the training split, kept with the run
// and its model, and what they divide by is the same in every layout.
#include "furrow/train/class_weights.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/data/class_weights.h"
#include "furrow/data/fitted_values.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/storage/artefact.h"
#include "furrow/train/session.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;

class ClassWeights : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  // Two thirds of the rows are of class "a", one in twelve is of class "c".
  void SetUp() override {
    std::string rows = "x,y,label\n";
    for (int i = 0; i < 240; ++i) {
      const int kind = i % 12 == 5 ? 2 : i % 12 > 8 ? 1 : 0;
      rows += fmt::format("{},{},{}\n", kind + i * 7 % 5, kind * 2 - i * 3 % 7, "abc"[kind]);
    }
    write_file_atomic(folder_.path() + "/rows.csv", rows);
  }

  // An uneven last microbatch: 20 = 8 + 8 + 4.
  config::Config config(const std::vector<std::string>& settings) const {
    std::vector<std::string> all = {"--training.dataset_path", folder_.path() + "/rows.csv"};
    all.insert(all.end(), settings.begin(), settings.end());
    return config::parse(R"(
      [model]
      name = "mlp"
      hidden = [12]
      [training]
      dataset = "table"
      local_batch_size = 8
      global_batch_size = 20
      steps = 7
      threads = 1
      [optimizer]
      lr = 1e-2
      [data]
      target = "label"
      validation_fraction = 0.2
      test_fraction = 0.2
      [validation]
      freq = 3
      [debug]
      deterministic = "strict"
    )",
                         "class_weights_test", all);
  }
};

TEST_F(ClassWeights, BalancedAreThoseOfTheTrainingSplitAndStayWithTheModel) {
  const observe::Summary summary = train_run("balanced", config({"--training.balance_classes"}));
  const data::Preprocessing fitted = *data::read_fitted(run("balanced"));
  const std::string text = fitted.at(preprocess::kClassWeights);
  EXPECT_EQ(storage::read_artefact(run("balanced") + "/model").preprocessing.at(preprocess::kClassWeights),
            text);
  const data::Dataset dataset = data::open_dataset(config({}));
  const std::vector<int64_t> counts = data::class_counts(*dataset.train);
  ASSERT_EQ(counts.size(), 3u);
  EXPECT_LT(counts[2], counts[1]);
  EXPECT_EQ(data::parse_weights(text), data::balanced_weights(counts, {}));
  // The same numbers by hand are the same run; none, or one that is another, are not.
  std::string list = text;
  std::ranges::replace(list, ' ', ',');
  train_run("by_hand", config({"--training.class_weights", list}));
  EXPECT_EQ(weights("by_hand"), weights("balanced"));
  train_run("even", config({}));
  EXPECT_NE(weights("even"), weights("balanced"));
  // An evaluation weighs as the run did.
  const EvalResult again = evaluate(run("balanced"), "test", config({"--training.balance_classes"}));
  EXPECT_NE(again.loss, evaluate(run("balanced"), "test", config({})).loss) << "control";
  EXPECT_EQ(again.accuracy, evaluate(run("balanced"), "test", config({})).accuracy);
  EXPECT_EQ(again.loss, *summary.test_loss);
}

TEST_F(ClassWeights, DoNotDependOnTheLayout) {
  const auto settings = [](std::vector<std::string> more) {
    more.insert(more.end(), {"--training.class_weights", "0.1,2.7,9"});
    return more;
  };
  const observe::Summary one = train_run("one", config(settings({})));
  for (const int ranks : {2, 3}) {
    const std::string name = fmt::format("on{}", ranks);
    const observe::Summary summary = train_on_ranks(name, ranks, config(settings({})));
    EXPECT_EQ(weights(name), weights("one"));
    EXPECT_EQ(*summary.loss, *one.loss);
    EXPECT_EQ(*summary.validation_loss, *one.validation_loss);
  }
}

TEST_F(ClassWeights, OfTwoClassesAsANumberAreThoseOfTwoLogits) {
  std::string rows = "x,label\n";
  for (int i = 0; i < 100; ++i)
    rows += fmt::format("{},{}\n", i % 7 - (i % 4 == 0 ? 3 : 0), i % 4 == 0 ? "yes" : "no");
  write_file_atomic(folder_.path() + "/rows.csv", rows);
  train_run("binary", config({"--training.loss", "binary", "--training.balance_classes"}));
  const data::Preprocessing fitted = *data::read_fitted(run("binary"));
  EXPECT_EQ(data::parse_weights(fitted.at(preprocess::kClassWeights)).size(), 2u);
  train_run("even", config({"--training.loss", "binary"}));
  EXPECT_NE(weights("even"), weights("binary"));
  train_run("positive", config({"--training.loss", "binary", "--training.pos_weight", "3"}));
  EXPECT_NE(weights("even"), weights("positive"));
}

TEST_F(ClassWeights, AnotherNumberThanClassesIsNamed) {
  try {
    train_run("wrong", config({"--training.class_weights", "1,2"}));
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(),
                HasSubstr("command line: training.class_weights has 2 numbers, and the model tells "
                          "3 classes apart"));
  }
}

}  // namespace
}  // namespace furrow::train
