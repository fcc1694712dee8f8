// Adapters: what stays frozen, any layout, memory, the merge, files.  (The formula: tensor/adapter_test.cc.)
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/models/lora.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/quote.h"
#include "furrow/storage/json.h"
#include "furrow/storage/safetensors.h"
#include "furrow/train/adapters_torch.h"
#include "furrow/train/evaluator_torch.h"
#include "furrow/train/initial_weights_torch.h"
#include "tests/testing/child.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::adapted;
using testing::run_steps;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;

class Adapters : public ::testing::TestWithParam<std::string> {};

TEST_P(Adapters, AreTheSameInEveryLayoutAndLeaveTheNetworkAlone) {
  const TinyTraining tiny = adapted(GetParam());
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 1};
  options.steps = 3;
  const StepResult whole = run_steps(tiny, options), start = run_steps(tiny, {.steps = 0});
  const plan::ModelSpec spec = tiny.trained_spec();
  const plan::FlatLayout flat = plan::flat_layout(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (const plan::FlatSpan& span : flat.units[u].spans) {
      const auto part = [&](const StepResult& result) {
        return result.read[u].narrow(0, span.offset, span.size);
      };
      const std::string& name = spec.units[u].parameters[span.parameter].name;
      EXPECT_EQ(at::equal(part(whole), part(start)), name.find(".lora_") == std::string::npos) << name;
    }
  }
  for (const testing::WorldOptions& world : testing::some_layouts()) {
    testing::run_world(tiny, options, world, [&](const testing::RankResult& rank) {
      EXPECT_EQ(testing::difference(rank, whole), "") << world.name();
    });
  }
  StepOptions recompute = options;
  recompute.recompute.assign(spec.units.size(), true);
  EXPECT_TRUE(testing::same_bits(run_steps(tiny, recompute).params, whole.params))
      << "masks are drawn again alike";
}

INSTANTIATE_TEST_SUITE_P(Tiny, Adapters,
                         ::testing::Values("mlp", "convnet", "gpt-tied", "llama-untied", "rnn", "lstm",
                                           "resnet", "normed", "gan", "gan@float16", "mlp@bfloat16",
                                           "convnet@bfloat16", "resnet@bfloat16", "normed@bfloat16",
                                           "gpt-tied@bfloat16", "llama-tied@bfloat16", "lstm@bfloat16",
                                           "gpt-untied@three-types", "gan@three-types"),
                         [](const auto& info) { return testing::test_name(info.param); });

// No gradient, no state and no masters but of adapters: what the formula counts is what there is.
TEST(AdapterMemory, IsThatOfTheAdaptersAlone) {
  for (const std::string name : {"gpt-tied", "gpt-tied@bfloat16"}) {
    const TinyTraining tiny = adapted(name);
    const plan::ModelSpec spec = tiny.trained_spec();
    plan::TrainOptions options;
    options.microbatch_sizes = {4};
    options.optimizer_states = plan::forms_of(tiny.rule().states());
    const plan::MemoryFormula formula = plan::quote(plan::compile_train(spec, {}, options), spec).formula;
    const ModelState model(spec, tiny.rule().states(), 42);
    double params = 0, optimizer = 0, adapters = 0;
    for (const UnitState& unit : model.units()) {
      if (!unit.read().defined()) continue;
      params += static_cast<double>(unit.read().nbytes());
      if (unit.compute.defined() && unit.params.defined())
        optimizer += static_cast<double>(unit.params.nbytes());
      for (const at::Tensor& state : unit.states) optimizer += static_cast<double>(state.nbytes());
    }
    for (const plan::UnitLayout& unit : model.flat().units)
      adapters += static_cast<double>(unit.trained_elements) * sizeof(float);
    EXPECT_EQ(formula.parameters, params);
    EXPECT_EQ(formula.gradients, adapters);
    EXPECT_EQ(formula.optimizer, optimizer);
    EXPECT_EQ(optimizer, adapters * (spec.units[1].compute == DType::kF32 ? 2 : 3));
  }
}

// Five steps of a network with adapters, without dropout.
struct Trained {
  explicit Trained(const std::string& name) : tiny(adapted(name)) {
    tiny.config.lora.dropout = 0;
    tiny.config.optimizer.lr = 0.1;
    spec = tiny.trained_spec();
    model = std::make_unique<ModelState>(spec, std::vector<plan::StateSpec>(), 42);
    const StepResult result = run_steps(tiny, {.steps = 5});
    for (size_t u = 0; u < spec.units.size(); ++u) {
      const UnitState& unit = model->unit(static_cast<int>(u));
      if (unit.params.defined()) unit.params.copy_(result.params[u]);
      if (unit.statistics.defined()) unit.statistics.copy_(result.statistics[u]);
    }
  }
  std::vector<NamedTensor> own(const ModelState& state, int unit) const {
    return state.tensors_of(unit, std::span(&state.unit(unit), 1));
  }
  double loss(ModelState& state) const {
    const Objective objective = tiny.objective();
    const RankContext rank;
    Evaluator evaluator(state, objective, rank, {.batch_size = 50});
    return evaluator.run(*tiny.source).mean();
  }

  TinyTraining tiny;
  plan::ModelSpec spec;
  std::unique_ptr<ModelState> model;
};

class MergedNetwork : public ::testing::TestWithParam<std::string> {};

// The merged network computes what the adapted one does.
TEST_P(MergedNetwork, IsTheNetworkWithItsAdapters) {
  const Trained trained(GetParam());
  ModelState merged(models::merged_network(trained.spec), {}, 42), start(trained.spec, {}, 42);
  TiedWeights tied(trained.spec);
  for (int u = 0; u < static_cast<int>(trained.spec.units.size()); ++u) {
    const plan::Unit& unit = trained.spec.units[static_cast<size_t>(u)];
    const auto from = without_adapters(unit, tied.with_parted(unit, trained.own(*trained.model, u)));
    const auto into = trained.own(merged, u);
    ASSERT_EQ(from.size(), into.size());
    for (const NamedTensor& each : into) {
      const auto same = std::ranges::find(from, each.name, &NamedTensor::name);
      ASSERT_NE(same, from.end()) << each.name;
      each.view.copy_(same->view);
    }
  }
  const double loss = trained.loss(*trained.model);
  EXPECT_NEAR(trained.loss(merged), loss, 1e-5 * loss);
  EXPECT_GT(std::abs(trained.loss(start) - loss), 1e-4 * loss) << "control";
}

INSTANTIATE_TEST_SUITE_P(Tiny, MergedNetwork,
                         ::testing::Values("mlp", "convnet", "gpt-tied", "llama-tied", "rnn", "lstm",
                                           "resnet", "normed", "gan"),
                         [](const auto& info) { return testing::test_name(info.param); });

class Merge : public ::testing::Test {
 protected:
  std::string export_to(const std::string& folder) const {
    std::vector<NamedTensor> adapters;
    for (size_t u = 0; u < spec_.units.size(); ++u) {
      for (const NamedTensor& each : adapters_of(spec_.units[u], mlp_.own(*trained_, static_cast<int>(u))))
        adapters.push_back(each);
    }
    export_adapters(folder, spec_, tiny_.config, adapters);
    return folder;
  }

  const Trained mlp_{"mlp"};
  const TinyTraining& tiny_ = mlp_.tiny;
  const plan::ModelSpec& spec_ = mlp_.spec;
  const std::unique_ptr<ModelState>& trained_ = mlp_.model;
};

TEST_F(Merge, AdaptersAloneHavePeftsNames) {
  const testing::TemporaryFolder folder;
  export_to(folder.path() + "/adapter");
  const storage::SafetensorsFile file(folder.path() + "/adapter/adapter_model.safetensors");
  EXPECT_NO_THROW(file.expect("base_model.model.fc1.lora_A.weight", DType::kF32, {3, 784}));
  EXPECT_NO_THROW(file.expect("base_model.model.fc3.lora_B.weight", DType::kF32, {10, 3}));
  const storage::Json json = storage::parse_json(read_file(folder.path() + "/adapter/adapter_config.json"));
  EXPECT_EQ(json.at("r").integer(), 3);
  EXPECT_EQ(json.at("target_modules").list().size(), 3u);
  EXPECT_EQ(json.at("target_modules").list()[0].string(), "fc1");
}

// The base from its own file, or as it starts, and adapters from theirs: on one rank or in slices.
TEST_F(Merge, AdaptersAreReadAgain) {
  const testing::TemporaryFolder folder;
  config::Config config = tiny_.config;
  config.lora.adapter_path = export_to(folder.path() + "/adapter");
  ModelState again(spec_, {}, 42);
  load_initial(config, again);
  for (int u = 0; u < static_cast<int>(spec_.units.size()); ++u)
    EXPECT_TRUE(at::equal(again.unit(u).params, trained_->unit(u).params)) << u;
  const int64_t half = again.unit(0).params.numel() / plan::kGrid / 2 * plan::kGrid;
  Residence residence;
  for (int u = 0; u < static_cast<int>(spec_.units.size()); ++u)
    residence.params.push_back({0, u == 0 ? half : again.unit(u).params.numel()});
  residence.states = residence.params;
  ModelState sliced(spec_, {}, 42, {}, residence);
  load_initial(config, sliced);
  EXPECT_TRUE(at::equal(sliced.unit(0).params, trained_->unit(0).params.narrow(0, 0, half)));
}

TEST_F(Merge, OtherAdaptersAreRefused) {
  const testing::TemporaryFolder folder;
  config::Config config = tiny_.config;
  config.lora.adapter_path = export_to(folder.path() + "/adapter");
  const auto error_of = [&](const config::Config& other) -> std::string {
    plan::ModelSpec spec = tiny_.spec;
    models::apply_lora(other.lora, &spec);
    ModelState model(spec, {}, 42);
    try {
      load_initial(other, model);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(error_of(config), "accepted") << "control";
  config::Config other = config;
  other.lora.alpha = 7;
  EXPECT_NE(error_of(other).find("lora_alpha 6, but [lora] has rank 3 and alpha 7"), std::string::npos);
  other = config;
  other.lora.target_modules = {"fc1"};
  EXPECT_NE(error_of(other).find("fc2.lora_A.weight belongs to no layer"), std::string::npos)
      << error_of(other);
  other.lora.rank = 0;
  EXPECT_NE(error_of(other).find("[lora] has rank 0"), std::string::npos) << error_of(other);
}

// GPT-2's layers by the names that transformers has for them.
TEST(Peft, NamesAreThoseOfTransformers) {
  const TinyTraining tiny = adapted("gpt-tied");
  const plan::ModelSpec spec = tiny.trained_spec();
  const ModelState model(spec, {}, 42);
  std::vector<NamedTensor> adapters;
  for (int u = 0; u < static_cast<int>(spec.units.size()); ++u) {
    for (const NamedTensor& each :
         adapters_of(spec.units[static_cast<size_t>(u)], model.tensors_of(u, std::span(&model.unit(u), 1))))
      adapters.push_back(each);
  }
  const testing::TemporaryFolder folder;
  export_adapters(folder.path(), spec, tiny.config, adapters);
  const std::string json = read_file(folder.path() + "/adapter_config.json");
  const storage::SafetensorsFile file(folder.path() + "/adapter_model.safetensors");
  const std::string prefix = "base_model.model.transformer.";
  EXPECT_NO_THROW(file.expect(prefix + "h.0.attn.c_attn.lora_A.weight", DType::kF32, {3, 16}));
  EXPECT_NO_THROW(file.expect(prefix + "wte.lora_embedding_A", DType::kF32, {3, 13}));
  EXPECT_NO_THROW(file.expect(prefix + "wpe.lora_embedding_B", DType::kF32, {16, 3}));
  EXPECT_NO_THROW(file.expect("base_model.model.lm_head.lora_B.weight", DType::kF32, {13, 3}));
  EXPECT_NE(json.find("\"transformer.h.0.attn.c_attn\""), std::string::npos) << json;
  EXPECT_NE(json.find("\"fan_in_fan_out\": true"), std::string::npos) << json;
}

}  // namespace
}  // namespace furrow::train
