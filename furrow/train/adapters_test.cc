// Adapters: the formula, what stays frozen, the merge, any layout.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/models/lora.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/quote.h"
#include "furrow/storage/json.h"
#include "furrow/storage/safetensors.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/train/adapters_torch.h"
#include "furrow/train/initial_weights_torch.h"
#include "tests/testing/child.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::run_steps;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;

TinyTraining adapted(const std::string& name) {
  TinyTraining tiny = testing::tiny(name);
  tiny.config.lora.rank = 3;
  tiny.config.lora.alpha = 6;
  tiny.config.lora.dropout = 0.25;
  return tiny;
}

at::Tensor random(const Shape& shape, uint64_t seed) {
  at::Tensor tensor = at::empty(shape);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data_ptr<float>()[i] =
        static_cast<float>((i * 7919 + static_cast<int64_t>(seed) * 104729) % 2003) / 2003 - 0.5F;
  return tensor;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b).abs().max() / b.abs().max()).item<double>();
}

at::Tensor activated(const at::Tensor& x, tensor::Activation activation) {
  switch (activation) {
    case tensor::Activation::kRelu:
      return at::relu(x);
    case tensor::Activation::kGelu:
      return at::gelu(x);
    case tensor::Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    default:
      return x;
  }
}

constexpr int64_t kIn = 20, kOut = 12, kRank = 3;

// Parameters of a layer or of several: those that are trained, with a place for their gradients.
struct Layers {
  explicit Layers(const std::vector<Shape>& shapes, const std::vector<bool>& frozen) : sink(frozen) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      params.push_back({random(shapes[i], i + 1).requires_grad_(true), static_cast<int>(i)});
      exact.push_back(params[i].leaf.detach().to(at::kDouble).requires_grad_(true));
      gradients.push_back(at::zeros(frozen[i] ? Shape{0} : shapes[i]));
    }
    context.training = true;
    context.sink = &sink;
  }
  void adapt(int weight, int a, int b) {
    params[weight].adapter =
        std::make_shared<const tensor::Adapter>(tensor::Adapter{params[a], params[b], 2.0, 0.0, "s"});
  }
  at::Tensor adapted(int weight, int a, int b) const { return exact[weight] + 2 * exact[b].mm(exact[a]); }
  void expect_gradients() {
    std::vector<std::span<float>> targets;
    for (const at::Tensor& each : gradients)
      targets.emplace_back(each.data_ptr<float>(), static_cast<size_t>(each.numel()));
    sink.write(targets);
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (gradients[i].numel() == 0) continue;
      EXPECT_LT(distance(gradients[i], exact[i].grad()), 1e-6) << i;
    }
  }

  tensor::GradientSink sink;
  tensor::OpContext context;
  std::vector<tensor::Param> params;
  std::vector<at::Tensor> exact, gradients;
};

// Values and all gradients of y = activation(x (W + 2 B A)^T + b), against autograd in double.
TEST(Adapter, EqualsAutogradInDouble) {
  for (const auto activation : {tensor::Activation::kNone, tensor::Activation::kRelu,
                                tensor::Activation::kGelu, tensor::Activation::kGeluTanh}) {
    Layers layer({{kOut, kIn}, {kOut}, {kRank, kIn}, {kOut, kRank}}, {true, true, false, false});
    layer.adapt(0, 2, 3);
    const at::Tensor x = random({5, 7, kIn}, 9).requires_grad_(true), dy = random({5, 7, kOut}, 10);
    const at::Tensor y = tensor::linear(x, layer.params[0], layer.params[1], activation, layer.context);
    y.backward(dy);
    const at::Tensor z = x.detach().to(at::kDouble).requires_grad_(true);
    const at::Tensor expected = activated(at::linear(z, layer.adapted(0, 2, 3), layer.exact[1]), activation);
    expected.backward(dy.to(at::kDouble));
    EXPECT_LT(distance(y.detach(), expected.detach()), 1e-6);
    EXPECT_LT(distance(x.grad(), z.grad()), 1e-6);
    layer.expect_gradients();
    const at::Tensor without = activated(at::linear(z, layer.exact[0], layer.exact[1]), activation);
    EXPECT_GT(distance(y.detach(), without.detach()), 1e-3) << "control";
  }
}

// Two layers over one input, of which the second alone is adapted, or both are.
TEST(Adapter, SideBySideEqualsAutogradInDouble) {
  for (const bool both : {false, true}) {
    Layers layers({{kOut, kIn}, {8, kIn}, {kRank, kIn}, {8, kRank}, {kRank, kIn}, {kOut, kRank}},
                  {true, true, false, false, !both, !both});
    layers.adapt(1, 2, 3);
    if (both) layers.adapt(0, 4, 5);
    const at::Tensor x = random({5, 7, kIn}, 9).requires_grad_(true), dy = random({5, 7, kOut + 8}, 10);
    const std::vector<tensor::Param> weights = {layers.params[0], layers.params[1]};
    const at::Tensor y = tensor::linear_side_by_side(x, weights, layers.context);
    y.backward(dy);
    const at::Tensor z = x.detach().to(at::kDouble).requires_grad_(true);
    const at::Tensor first = both ? layers.adapted(0, 4, 5) : layers.exact[0];
    const at::Tensor expected = at::linear(z, at::cat({first, layers.adapted(1, 2, 3)}));
    expected.backward(dy.to(at::kDouble));
    EXPECT_LT(distance(y.detach(), expected.detach()), 1e-6);
    EXPECT_LT(distance(x.grad(), z.grad()), 1e-6);
    layers.expect_gradients();
  }
}

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
  for (const testing::WorldOptions& world : {testing::WorldOptions{.replicate = 4},
                                             {.shard = 3, .zero_stage = 1},
                                             {.shard = 4, .zero_stage = 3},
                                             {.replicate = 2, .shard = 2, .zero_stage = 2}}) {
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
                         ::testing::Values("mlp", "gpt-tied", "llama-untied", "rnn", "resnet", "mlp@bfloat16",
                                           "gpt-tied@bfloat16", "llama-tied@bfloat16"),
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

// The merged network computes what the adapted one does.
class Merge : public ::testing::Test {
 protected:
  Merge() : tiny_(adapted("mlp")) {
    tiny_.config.lora.dropout = 0;
    spec_ = tiny_.trained_spec();
    trained_ = std::make_unique<ModelState>(spec_, std::vector<plan::StateSpec>(), 42);
    const StepResult result = run_steps(tiny_, {.steps = 5});
    for (size_t u = 0; u < spec_.units.size(); ++u)
      trained_->unit(static_cast<int>(u)).params.copy_(result.params[u]);
  }
  std::vector<NamedTensor> own(const ModelState& model, int unit) const {
    return model.tensors_of(unit, model.unit(unit));
  }
  std::string export_to(const std::string& folder) const {
    std::vector<NamedTensor> adapters;
    for (size_t u = 0; u < spec_.units.size(); ++u) {
      for (const NamedTensor& each : adapters_of(spec_.units[u], own(*trained_, static_cast<int>(u))))
        adapters.push_back(each);
    }
    export_adapters(folder, spec_, tiny_.config, adapters);
    return folder;
  }

  TinyTraining tiny_;
  plan::ModelSpec spec_;
  std::unique_ptr<ModelState> trained_;
};

TEST_F(Merge, IsTheNetworkWithItsAdapters) {
  ModelState plain(tiny_.spec, {}, 42);
  at::Tensor a = random({4, 1, 28, 28}, 9), b = a, untrained = a;
  tensor::OpContext context;
  const at::NoGradGuard no_grad;
  const ModelState start(tiny_.spec, {}, 42);
  for (int u = 0; u < static_cast<int>(spec_.units.size()); ++u) {
    const auto merged = without_adapters(spec_.units[static_cast<size_t>(u)], own(*trained_, u));
    const auto into = own(plain, u);
    ASSERT_EQ(merged.size(), into.size());
    for (size_t i = 0; i < into.size(); ++i) {
      EXPECT_EQ(merged[i].name, into[i].name);
      into[i].view.copy_(merged[i].view);
    }
    a = trained_->block(u).forward(a, trained_->params(u), context);
    b = plain.block(u).forward(b, plain.params(u), context);
    untrained = start.block(u).forward(untrained, start.params(u), context);
  }
  const double scale = b.abs().max().item<double>();
  EXPECT_LT((a - b).abs().max().item<double>(), 1e-5 * scale);
  EXPECT_GT((a - untrained).abs().max().item<double>(), 1e-2 * scale) << "control";
}

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
  const testing::TemporaryFolder folder;
  export_adapters(folder.path(), spec, tiny.config,
                  adapters_of(spec.units[1], model.tensors_of(1, model.unit(1))));
  const storage::SafetensorsFile file(folder.path() + "/adapter_model.safetensors");
  EXPECT_NO_THROW(
      file.expect("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", DType::kF32, {3, 16}));
  const std::string json = read_file(folder.path() + "/adapter_config.json");
  EXPECT_NE(json.find("\"transformer.h.0.attn.c_attn\""), std::string::npos) << json;
  EXPECT_NE(json.find("\"fan_in_fan_out\": true"), std::string::npos) << json;
}

}  // namespace
}  // namespace furrow::train
