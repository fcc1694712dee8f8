// Adapters: the formula, what stays frozen, the merge, any layout.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/storage/safetensors.h"
#include "furrow/tensor/ops_torch.h"
#include "furrow/train/adapters_torch.h"
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

// Values and all gradients of y = gelu(x W^T + b + 2 x A^T B^T), against autograd in double.
TEST(Adapter, EqualsAutogradInDouble) {
  const int64_t in = 20, out = 12, rank = 3;
  std::vector<at::Tensor> all = {random({out, in}, 1), random({out}, 2), random({rank, in}, 3),
                                 random({out, rank}, 4)};
  const at::Tensor x = random({5, 7, in}, 5).requires_grad_(true), dy = random({5, 7, out}, 6);
  tensor::GradientSink sink(std::vector<bool>{true, true, false, false});
  tensor::OpContext context;
  context.training = true;
  context.sink = &sink;
  std::vector<tensor::Param> params;
  for (int i = 0; i < 4; ++i) params.push_back({all[i].clone().requires_grad_(true), i});
  params[0].adapter =
      std::make_shared<const tensor::Adapter>(tensor::Adapter{params[2], params[3], 2.0, 0.0, "s"});
  const at::Tensor y = tensor::linear(x, params[0], params[1], tensor::Activation::kGelu, context);
  y.backward(dy);
  std::vector<at::Tensor> gradients = {at::Tensor(), at::Tensor(), at::zeros({rank, in}),
                                       at::zeros({out, rank})};
  std::vector<std::span<float>> targets(2);
  for (int i = 2; i < 4; ++i)
    targets.emplace_back(gradients[i].data_ptr<float>(), static_cast<size_t>(gradients[i].numel()));
  sink.write(targets);

  std::vector<at::Tensor> exact;
  for (const at::Tensor& each : all) exact.push_back(each.to(at::kDouble).requires_grad_(true));
  const at::Tensor z = x.detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor w = exact[0] + 2 * exact[3].mm(exact[2]);
  const at::Tensor expected = at::gelu(at::linear(z, w, exact[1]));
  expected.backward(dy.to(at::kDouble));
  const auto distance = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a.to(at::kDouble) - b).abs().max() / b.abs().max()).item<double>();
  };
  EXPECT_LT(distance(y.detach(), expected.detach()), 1e-6);
  EXPECT_LT(distance(x.grad(), z.grad()), 1e-6);
  EXPECT_LT(distance(gradients[2], exact[2].grad()), 1e-6);
  EXPECT_LT(distance(gradients[3], exact[3].grad()), 1e-6);
  EXPECT_GT(distance(y.detach(), at::gelu(at::linear(z, exact[0], exact[1])).detach()), 1e-3) << "control";
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
        return result.params[u].narrow(0, span.offset, span.size);
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

INSTANTIATE_TEST_SUITE_P(Tiny, Adapters, ::testing::Values("mlp", "gpt-tied", "llama-untied", "rnn"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The merged network computes what the adapted one does.
TEST(Merge, IsTheNetworkWithItsAdapters) {
  TinyTraining tiny = adapted("mlp");
  tiny.config.lora.dropout = 0;
  const plan::ModelSpec spec = tiny.trained_spec();
  const StepResult trained = run_steps(tiny, {.steps = 5});
  ModelState with(spec, {}, 42), without(tiny.spec, {}, 42);
  for (size_t u = 0; u < spec.units.size(); ++u)
    with.unit(static_cast<int>(u)).params.copy_(trained.params[u]);
  const auto parameters = with.parameters_of(with.units());
  const auto merged = merge_adapters(spec, parameters);
  const auto plain = without.parameters_of(without.units());
  ASSERT_EQ(merged.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(merged[i].name, plain[i].name);
    plain[i].view.copy_(merged[i].view);
  }
  at::Tensor a = random({4, 1, 28, 28}, 9), b = a;
  tensor::OpContext context;
  const at::NoGradGuard no_grad;
  for (size_t u = 0; u < spec.units.size(); ++u) {
    a = with.block(static_cast<int>(u)).forward(a, with.params(static_cast<int>(u)), context);
    b = without.block(static_cast<int>(u)).forward(b, without.params(static_cast<int>(u)), context);
  }
  EXPECT_LT((a - b).abs().max().item<double>(), 1e-5 * b.abs().max().item<double>());

  const testing::TemporaryFolder folder;
  export_adapters(folder.path() + "/adapter", tiny.config, adapters_of(spec, parameters));
  const storage::SafetensorsFile file(folder.path() + "/adapter/adapter_model.safetensors");
  EXPECT_NO_THROW(file.expect("base_model.model.fc1.lora_A.weight", DType::kF32, {3, 784}));
  EXPECT_NO_THROW(file.expect("base_model.model.fc3.lora_B.weight", DType::kF32, {10, 3}));
  const std::string json = read_file(folder.path() + "/adapter/adapter_config.json");
  EXPECT_NE(json.find("\"target_modules\": [\"fc1\", \"fc2\", \"fc3\"]"), std::string::npos) << json;
}

}  // namespace
}  // namespace furrow::train
