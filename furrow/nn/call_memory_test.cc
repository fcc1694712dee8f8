// What blocks hold at their most, by the counting allocator, beside what models/block_memory.h says.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/models/architectures.h"
#include "furrow/models/block_memory.h"
#include "furrow/models/lora.h"
#include "furrow/models/precision.h"
#include "furrow/nn/block_torch.h"
#include "furrow/nn/test_network_torch.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::nn {
namespace {

constexpr testing::DecoderForm kForm{8, 32, 128, 64, 4, 2, 96};

int64_t held() { return memory_usage(MemoryKind::kActivations).current_bytes; }
int64_t peak() { return memory_usage(MemoryKind::kActivations).peak_bytes; }

// One rank of several, as far as memory goes: what others would bring is zeros.
class OneOfMany : public tensor::TensorAxis {
 public:
  explicit OneOfMany(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  void run(const tensor::AxisCollective& collective) override { at::Tensor(collective.out).zero_(); }

 private:
  int size_;
};

bool trains(const plan::Parameter& parameter) { return !parameter.rule.frozen && !parameter.borrowed; }

// One unit's forward and backward, with their memory counted.
class Call {
 public:
  Call(const plan::Unit& unit, const models::ImageBorders& borders, bool passes, int64_t batch)
      : unit_(unit), borders_(borders), sink_(frozen_of(unit)), ids_(batch), axis_(unit.tensor_degree) {
    std::iota(ids_.begin(), ids_.end(), 0);
    const auto type = tensor::scalar_type(unit.compute);
    const bool trains = std::ranges::any_of(frozen_of(unit), [](bool frozen) { return !frozen; });
    for (const plan::Parameter& parameter : unit.parameters) {
      const at::Tensor value = at::ones(parameter.shape, at::TensorOptions().dtype(type));
      params_.push_back({value.set_requires_grad(trains), static_cast<int>(params_.size())});
    }
    for (const plan::Adapter& each : unit.adapters) {
      const tensor::Adapter adapter{params_[each.a], params_[each.b], each.scale, each.dropout, "stream"};
      params_[each.weight].adapter = std::make_shared<const tensor::Adapter>(adapter);
    }
    std::vector<int64_t> sizes = unit.input.shape;
    sizes[0] = batch;
    input_ = in_form(at::ones(sizes, at::TensorOptions().dtype(type)), borders.comes);
    input_.set_requires_grad(passes);
    context_.training = true;
    context_.sample_ids = ids_;
    context_.sink = trains ? &sink_ : nullptr;
    context_.axis = &axis_;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  models::CallMemory run() {
    const MemoryScope scope(MemoryKind::kActivations);
    const std::unique_ptr<Block> block = make_block(unit_);
    models::CallMemory measured;
    const int64_t before = held();
    reset_memory_peaks();
    at::Tensor output = block->forward(input_, params_, context_);
    measured.forward_peak = peak() - before;
    measured.saved_bytes = held() - before - bytes(output);
    if (!output.requires_grad()) return measured;
    at::Tensor gradient = in_form(at::ones_like(output), borders_.gradient_comes);
    const int64_t begin = held();
    reset_memory_peaks();
    at::Tensor passed = backward(output, gradient);
    measured.backward_peak = peak() - begin;
    const int64_t with_gradient = held(), of_gradient = bytes(gradient);
    gradient.reset();
    measured.kept_grad_bytes = of_gradient - (with_gradient - held());
    output.reset();
    measured.deferred_bytes = held() - before - (passed.defined() ? bytes(passed) : 0);
    return measured;
  }

 private:
  static std::vector<bool> frozen_of(const plan::Unit& unit) {
    std::vector<bool> frozen;
    for (const plan::Parameter& parameter : unit.parameters) frozen.push_back(!trains(parameter));
    return frozen;
  }
  static at::Tensor in_form(const at::Tensor& x, models::ImageForm form) {
    return form == models::ImageForm::kPixels ? x.contiguous(at::MemoryFormat::ChannelsLast) : x.contiguous();
  }
  static int64_t bytes(const at::Tensor& x) { return static_cast<int64_t>(x.nbytes()); }

  at::Tensor backward(const at::Tensor& output, const at::Tensor& gradient) {
    std::vector<at::Tensor> wanted;
    for (const tensor::Param& param : params_) {
      if (param.leaf.requires_grad()) wanted.push_back(param.leaf);
    }
    if (input_.requires_grad()) wanted.push_back(input_);
    const auto results = torch::autograd::grad({output}, wanted, {gradient}, std::nullopt, false, true);
    return input_.requires_grad() ? results.back() : at::Tensor();
  }

  const plan::Unit& unit_;
  const models::ImageBorders borders_;
  tensor::GradientSink sink_;
  std::vector<int64_t> ids_;
  std::vector<tensor::Param> params_;
  at::Tensor input_;
  OneOfMany axis_;
  tensor::OpContext context_;
};

// Norms, biases and their gradients, which go by the unit and not by the sample.
int64_t fixed_bytes(const plan::Unit& unit) {
  int64_t bytes = 0;
  for (const plan::Parameter& parameter : unit.parameters)
    bytes += parameter.shape.size() == 1 ? 2 * parameter.size() * 4 : 0;
  return bytes;
}

void expect_near(int64_t measured, int64_t said, int64_t fixed, const std::string& what) {
  EXPECT_LE(std::abs(measured - said), fixed + said / 200)
      << fmt::format("{}: {} held, {} said", what, measured, said);
}

void compare(const plan::ModelSpec& spec, const std::string& name, int64_t batch = kForm.batch) {
  const plan::ModelFacts facts = plan::model_facts(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    plan::Unit unit = spec.units[u];
    if (!plan::is_number(unit.input.dtype)) continue;
    const models::ImageBorders borders = models::image_borders(spec, facts, u);
    unit.input.dtype = unit.compute;  // as the executor converts it
    for (const bool passes : {true, false}) {
      const models::CallMemory said = models::call_memory(unit, passes, borders, batch);
      if (said.forward_peak == 0) continue;
      const models::CallMemory measured = Call(unit, borders, passes, batch).run();
      const std::string what =
          fmt::format("{}, {}{}", name, unit.name, passes ? "" : " of an input without gradient");
      const int64_t fixed = fixed_bytes(unit);
      expect_near(measured.saved_bytes, batch * said.saved_bytes, fixed, what + ", saved");
      expect_near(measured.deferred_bytes, batch * said.deferred_bytes, fixed, what + ", deferred");
      expect_near(measured.kept_grad_bytes, batch * said.kept_grad_bytes, 0, what + ", gradient kept");
      expect_near(measured.forward_peak, batch * said.forward_peak + said.forward_fixed, fixed,
                  what + ", forward");
      expect_near(measured.backward_peak, batch * said.backward_peak + said.backward_fixed, fixed,
                  what + ", backward");
    }
  }
}

// What a rank is said to hold is what the description of its part has.
plan::ModelSpec part_of(plan::ModelSpec spec, int ranks) {
  models::declare_scratch(&spec);
  const plan::ModelSpec part = plan::tensor_cut(spec, ranks);
  for (const plan::Unit& unit : part.units) {
    const models::CallMemory said = models::call_memory(unit, true);
    if (said.forward_peak == 0) continue;
    EXPECT_EQ(unit.saved_bytes, said.saved_bytes) << unit.name;
    EXPECT_EQ(unit.deferred_bytes, said.deferred_bytes) << unit.name;
  }
  return part;
}

struct Form {
  const char* name;
  bool llama = false;
  double dropout = 0;
  config::Lora lora = {};
  std::string frozen = {};  // parameters whose names have it; "*": all
  int ranks = 1;            // of a tensor axis
  int64_t head_dim = 0;
  bool qkv_bias = false;
};
void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

void freeze(const std::string& part, plan::ModelSpec* spec) {
  for (plan::Unit& unit : spec->units) {
    for (plan::Parameter& parameter : unit.parameters) {
      const bool named = !part.empty() && parameter.name.find(part) != std::string::npos;
      parameter.rule.frozen = parameter.rule.frozen || part == "*" || named;
    }
  }
}

class CallMemory : public ::testing::TestWithParam<std::tuple<Form, DType>> {};

TEST_P(CallMemory, IsThatOfTheBlock) {
  const auto& [form, type] = GetParam();
  tensor::install_counting_allocator();
  testing::DecoderForm sizes = kForm;
  sizes.dropout = form.dropout;
  sizes.head_dim = form.head_dim;
  sizes.qkv_bias = form.qkv_bias;
  plan::ModelSpec spec = form.llama ? testing::llama_network(sizes).spec : testing::gpt_network(sizes).spec;
  models::compute_in(type, &spec);
  models::apply_lora(form.lora, &spec);
  freeze(form.frozen, &spec);
  compare(form.ranks == 1 ? spec : part_of(spec, form.ranks), form.name);
}

config::Lora lora(double dropout, std::vector<std::string> targets) {
  config::Lora lora;
  lora.rank = 4;
  lora.alpha = 8;
  lora.dropout = dropout;
  lora.target_modules = std::move(targets);
  return lora;
}

INSTANTIATE_TEST_SUITE_P(
    All, CallMemory,
    ::testing::Combine(
        ::testing::Values(
            Form{"gpt"}, Form{"gpt_dropout", false, .1}, Form{"gpt_frozen", false, 0, {}, "*"},
            Form{"gpt_frozen_mlp", false, 0, {}, ".mlp."},
            Form{"gpt_frozen_attention_2_ranks", false, .1, {}, ".attn.", 2},
            Form{"gpt_lora", false, 0, lora(0, {"*"})}, Form{"gpt_lora_dropout", false, .1, lora(.1, {"*"})},
            Form{"gpt_lora_attention", false, 0, lora(0, {"c_attn"})},
            Form{"gpt_2_ranks", false, 0, {}, "", 2}, Form{"gpt_4_ranks", false, .1, {}, "", 4},
            Form{"gpt_lora_2_ranks", false, 0, lora(0, {"*"}), "", 2},
            Form{"gpt_lora_dropout_4_ranks", false, .1, lora(.1, {"*"}), "", 4},
            Form{"llama_lora_2_ranks", true, 0, lora(0, {"*"}), "", 2},
            Form{"llama_lora_qv_2_ranks", true, 0, lora(.1, {"q_proj", "v_proj"}), "", 2},
            Form{"llama_2_ranks", true, 0, {}, "", 2}, Form{"llama", true},
            Form{"llama_biased", true, 0, {}, "", 1, 0, true},
            Form{"llama_biased_lora_2_ranks", true, 0, lora(0, {"q_proj", "v_proj"}), "", 2, 0, true},
            Form{"llama_wide_heads", true, 0, {}, "", 1, 36},
            Form{"llama_wide_heads_2_ranks", true, 0, {}, "", 2, 36},
            Form{"llama_narrow_heads_lora", true, 0, lora(0, {"*"}), "", 1, 6},
            Form{"llama_frozen", true, 0, {}, "*"}, Form{"llama_frozen_down", true, 0, {}, "down_proj"},
            Form{"llama_frozen_q", true, 0, {}, "q_proj"}, Form{"llama_lora", true, 0, lora(0, {"*"})},
            Form{"llama_lora_dropout", true, 0, lora(.1, {"*"})},
            Form{"llama_lora_qv", true, 0, lora(0, {"q_proj", "v_proj"})}),
        ::testing::Values(DType::kF32, DType::kBF16, DType::kF16)),
    [](const auto& info) {
      return fmt::format("{}_{}", std::get<0>(info.param).name, to_string(std::get<1>(info.param)));
    });

// Networks of layers and images, with adapters and without.
struct Layers {
  std::string name;
  std::string architecture;
  std::string activation = "relu";
  config::Lora lora = {};
  int ranks = 1;
  std::string frozen = {};  // as Form's
  std::vector<std::string> units = {};
  bool reads_text = false;
};
void PrintTo(const Layers& layers, std::ostream* out) { *out << layers.name; }

class CallMemoryOfLayers : public ::testing::TestWithParam<std::tuple<Layers, DType>> {};

TEST_P(CallMemoryOfLayers, IsThatOfTheBlock) {
  const auto& [form, type] = GetParam();
  tensor::install_counting_allocator();
  config::Model model;
  model.name = form.architecture;
  model.activation = form.activation;
  model.hidden = {48, 32, 24};
  model.generator_hidden = model.discriminator_hidden = {48, 32};
  model.units = form.units;
  const plan::TensorSpec text{DType::kI64, {-1, 24}},
      image{DType::kF32, {-1, form.units.empty() ? 1 : 3, 16, 16}};
  plan::ModelSpec spec = models::describe(model, {form.reads_text ? text : image, 10});
  models::compute_in(type, &spec);
  models::apply_lora(form.lora, &spec);
  freeze(form.frozen, &spec);
  // Of layers of some numbers biases would else be a part that counts; codes are of 16 samples together.
  const bool few = form.architecture == "resnet20" || form.architecture == "blocks";
  compare(form.ranks == 1 ? spec : part_of(spec, form.ranks), form.name, few ? 16 : 256);
}

std::vector<Layers> layers() {
  std::vector<Layers> all;
  for (const char* activation : {"relu", "gelu", "gelu_tanh", "silu", "tanh", "leaky_relu"}) {
    for (const int ranks : {1, 2})
      all.push_back({fmt::format("mlp_{}_{}", activation, ranks), "mlp", activation, {}, ranks});
  }
  for (const int ranks : {1, 2, 4}) {
    for (const double dropout : {0.0, 0.1})
      all.push_back({fmt::format("mlp_lora{}_{}", dropout > 0 ? "_dropout" : "", ranks), "mlp", "relu",
                     lora(dropout, {"*"}), ranks});
    all.push_back({fmt::format("mlp_gelu_lora_{}", ranks), "mlp", "gelu", lora(0, {"*"}), ranks});
  }
  all.push_back({"gan", "gan"});
  all.push_back({"mlp_frozen_weights", "mlp", "relu", {}, 1, "weight"});
  all.push_back({"convnet", "convnet"});
  all.push_back({"resnet20", "resnet20"});
  all.push_back({"pooled_norm",
                 "blocks",
                 "",
                 {},
                 1,
                 "",
                 {"stem: conv_norm out_channels=16 kernel=7 stride=2 pool=true",
                  "r: residual_block out_channels=16", "fc: pool_linear out=classes"}});
  all.push_back({"resnet20_frozen_first", "resnet20", "relu", {}, 1, "conv1."});
  all.push_back({"gan_lora", "gan", "relu", lora(0, {"*"})});
  for (const double dropout : {0.0, 0.1})
    all.push_back({fmt::format("resnet20_lora{}", dropout > 0 ? "_dropout" : ""), "resnet20", "relu",
                   lora(dropout, {"*"})});
  return all;
}

// Lists of units, whole, frozen and with adapters.
std::vector<Layers> lists() {
  const std::pair<std::string, std::vector<std::string>> images[] = {
      {"convolutions",
       {"c1: conv out_channels=16 kernel=3 padding=1 activation=silu",
        "c2: conv out_channels=24 kernel=3 stride=2",
        "c3: conv out_channels=16 kernel=3 padding=1 activation=relu bias=false",
        "c4: conv out_channels=24 kernel=1 activation=leaky_relu", "a: activation activation=tanh",
        "b: activation activation=leaky_relu", "d: dropout p=0.3",
        "c5: conv out_channels=16 kernel=1 bias=false",
        "q: conv_relu_pool out_channels=24 kernel=3 padding=1 pool=true", "fc: pool_linear out=classes"}},
      {"norms",
       {"n0: batch_norm", "c1: conv out_channels=16 kernel=3 padding=1", "n1: group_norm groups=4",
        "p1: max_pool kernel=2", "n2: batch_norm activation=silu", "n3: layer_norm", "p2: avg_pool kernel=2",
        "n4: batch_norm activation=relu", "n5: batch_norm activation=leaky_relu", "g: global_avg_pool",
        "n6: batch_norm activation=tanh", "n7: layer_norm bias=false", "d: dropout",
        "fc: linear out=classes"}}};
  std::vector<Layers> all;
  for (const auto& [name, units] : images) {
    all.push_back({name, "blocks", "", {}, 1, "", units});
    all.push_back({name + "_frozen", "blocks", "", {}, 1, "*", units});
    all.push_back({name + "_frozen_biases", "blocks", "", {}, 1, "bias", units});
  }
  for (const double dropout : {0.0, 0.1})
    all.push_back({fmt::format("convolutions_lora{}", dropout > 0 ? "_dropout" : ""), "blocks", "",
                   lora(dropout, {"*"}), 1, "", images[0].second});
  for (const std::string matrix : {"lora_A", "lora_B"})
    all.push_back(
        {"convolutions_frozen_" + matrix, "blocks", "", lora(0, {"*"}), 1, matrix, images[0].second});
  const std::vector<std::string> recurrent = {"e: embedding width=48",
                                              "l: lstm hidden=40",
                                              "m: lstm hidden=32 dropout=0.2",
                                              "n: layer_norm",
                                              "r: rnn hidden=40 out=48 dropout=0.1",
                                              "s: rnn hidden=32 out=classes"};
  for (const std::string frozen : {"", "*", "i2h.weight", "i2o", "bias"})
    all.push_back({fmt::format("recurrent{}", frozen.empty()  ? ""
                                              : frozen == "*" ? "_frozen"
                                                              : "_frozen_" + frozen.substr(0, 3)),
                   "blocks",
                   "",
                   {},
                   1,
                   frozen,
                   recurrent,
                   true});
  for (const std::string target : {"*", "i2h", "i2o"})
    all.push_back({"recurrent_lora_" + (target == "*" ? "all" : target), "blocks", "", lora(0, {target}), 1,
                   "", recurrent, true});
  for (const std::string matrix : {"lora_A", "lora_B"})
    all.push_back({"recurrent_frozen_" + matrix, "blocks", "", lora(0, {"*"}), 1, matrix, recurrent, true});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Lists, CallMemoryOfLayers,
                         ::testing::Combine(::testing::ValuesIn(lists()),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& info) {
                           return fmt::format("{}_{}", std::get<0>(info.param).name,
                                              to_string(std::get<1>(info.param)));
                         });

INSTANTIATE_TEST_SUITE_P(All, CallMemoryOfLayers,
                         ::testing::Combine(::testing::ValuesIn(layers()),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& info) {
                           return fmt::format("{}_{}", std::get<0>(info.param).name,
                                              to_string(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace furrow::nn
