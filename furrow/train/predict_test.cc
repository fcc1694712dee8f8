// What is predicted of the stages of a pipeline.  (What runs hold: held_memory_test.cc.)
#include "furrow/train/predict.h"

#include <gtest/gtest.h>

#include <vector>

#include "furrow/models/architectures.h"
#include "furrow/plan/compatibility.h"
#include "furrow/train/recipe.h"

namespace furrow::train {
namespace {

// The stage of the embedding alone does not.
TEST(Multiplies, IsOfTheStage) {
  config::Config config;
  config.model.name = "gpt";
  config.model.layers = 2;
  config.parallelism.pipeline_parallel_degree = 2;
  config.parallelism.pipeline_parallel_units_per_stage = {1, 3};
  config.training.global_batch_size = 2 * config.training.local_batch_size;
  const plan::Layout layout = plan::layout_from(config.parallelism, 2);
  const plan::ModelSpec spec = models::describe(config.model, {{DType::kI64, {-1, 8}}, 16});
  const std::vector<plan::Program> programs =
      programs_of_world(spec, layout, train_options(config, spec, layout));
  EXPECT_FALSE(multiplies(programs[0], spec));
  EXPECT_TRUE(multiplies(programs[1], spec));
}

}  // namespace
}  // namespace furrow::train
