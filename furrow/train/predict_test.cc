// What a run is predicted to hold, beside what it held.
#include "furrow/train/predict.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/compatibility.h"
#include "furrow/train/recipe.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"

namespace furrow::train {
namespace {

struct Network {
  std::string name;
  std::vector<std::string> overrides;
  double error = 0.05;  // more where backward makes and frees what no value holds
};

void PrintTo(const Network& network, std::ostream* out) { *out << network.name; }

class HeldMemory : public ::testing::TestWithParam<Network> {
 protected:
  std::string make_data() const {
    const std::string& kind = GetParam().name;
    if (kind == "mlp" || kind == "convnet" || kind.starts_with("resnet")) {
      testing::write_made_up_idx(folder_.path() + "/data", 100, 20, 28);
      return folder_.path() + "/data";
    }
    std::string text;
    for (int i = 0; i < 3000; ++i) text += static_cast<char>('a' + i * i % 26);
    write_file_atomic(folder_.path() + "/text", text);
    return folder_.path() + "/text";
  }

  observe::Summary run(const std::string& recompute) const {
    const std::string data = make_data();
    std::vector<std::string> all = {"--training.dataset_path",
                                    data,
                                    "--training.dataset",
                                    data.ends_with("text") ? "text" : "idx",
                                    "--activation_checkpoint.mode",
                                    recompute,
                                    "--model.name",
                                    GetParam().name};
    all.insert(all.end(), GetParam().overrides.begin(), GetParam().overrides.end());
    TrainRequest request;
    request.config = config::parse(R"(
      [training]
      local_batch_size = 16
      global_batch_size = 32
      seq_len = 32
      steps = 2
      threads = 1
      [validation]
      enable = false
      [checkpoint]
      enable = false
    )",
                                   "predict_test", all);
    request.run_folder = folder_.path() + "/" + recompute;
    return train(request);
  }

  testing::TemporaryFolder folder_;
};

TEST_P(HeldMemory, IsAsPlanned) {
  for (const std::string recompute : {"none", "full"}) {
    reset_memory_peaks();
    const observe::Summary summary = run(recompute);
    for (const MemoryKind kind : {MemoryKind::kParameters, MemoryKind::kGradients, MemoryKind::kOptimizer,
                                  MemoryKind::kActivations}) {
      const auto k = static_cast<size_t>(kind);
      const auto planned = static_cast<double>(summary.prediction->predicted.memory_by_kind[k]);
      const auto held = static_cast<double>(summary.prediction->measured.memory_by_kind[k]);
      EXPECT_NEAR(planned / held, 1, GetParam().error) << to_string(kind) << ", recompute " << recompute;
    }
  }
}

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

const std::vector<std::string> kWide = {"--model.width", "64", "--model.layers", "3"};

Network with_adapters(const std::string& name, const std::string& precision, double error = 0.05) {
  Network network{name, kWide, error};
  network.overrides.insert(network.overrides.end(),
                           {"--lora.rank", "4", "--training.mixed_precision_param", precision});
  return network;
}

INSTANTIATE_TEST_SUITE_P(Adapters, HeldMemory,
                         ::testing::Values(with_adapters("lstm", "float32"),
                                           with_adapters("lstm", "bfloat16"), with_adapters("rnn", "float32"),
                                           with_adapters("rnn", "bfloat16"),
                                           with_adapters("gpt", "float32", 0.12),
                                           with_adapters("llama", "bfloat16", 0.12)));
INSTANTIATE_TEST_SUITE_P(
    Networks, HeldMemory,
    ::testing::Values(Network{"mlp", {"--model.hidden", "[256,128,64]"}},
                      Network{"mlp", {"--model.hidden", "[256,128]", "--model.activation", "gelu"}},
                      Network{"convnet", {}}, Network{"resnet20", {}}, Network{"gpt", kWide},
                      Network{"llama", kWide, 0.12}, Network{"rnn", kWide, 0.12},
                      Network{"lstm", kWide, 0.12}));

}  // namespace
}  // namespace furrow::train
