#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"
#include "furrow/models/lora.h"
#include "furrow/models/precision.h"
#include "furrow/models/teacher.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/plan/topology.h"
#include "furrow/plan/value_bytes.h"
#include "tests/testing/tiny_training_torch.h"

namespace furrow::testing {
namespace {

constexpr int64_t kContext = 8;

std::vector<data::Field> image_fields(const Shape& shape) {
  return {{"input", DType::kF32, shape}, {"target", DType::kI64, {}}};
}

config::Config base_config() {
  config::Config config;
  config.training.threads = 1;
  config.optimizer.name = "adamw";
  config.optimizer.lr = 1e-2;
  config.optimizer.weight_decay = 0.1;
  return config;
}

// bfloat16 and float32, of three types float16 too, in turn, but for units that read weights of others; of a
// teacher one float32 unit.
void mix_precisions(size_t types, TinyTraining* tiny) {
  config::Training& training = tiny->config.training;
  training.mixed_precision_param = "bfloat16";
  for (size_t u = 0; u < tiny->spec.units.size(); ++u) {
    const plan::Unit& unit = tiny->spec.units[u];
    const bool ties = std::ranges::any_of(unit.parameters, &plan::Parameter::tied);
    if (u % types == 0 || ties) continue;
    training.mixed_precision_units.push_back(unit.name +
                                             (u % types == 1 ? " param=float32" : " param=float16"));
  }
  if (training.objective == "distillation")
    training.mixed_precision_units.emplace_back("teacher.fc1 param=float32");
}

plan::Value gradient_value(const plan::Program& program, int unit) {
  for (const plan::Instruction& instruction : program.instructions) {
    if (instruction.op != plan::Op::kMeasure) continue;
    for (const plan::Value& value : instruction.reads) {
      if (plan::is_gradient(value.kind) && value.unit == unit) return value;
    }
  }
  throw Error(ErrorCode::kInternal, "the gradient of the unit is never measured");
}

}  // namespace

MadeUpSource MadeUpSource::images(int64_t size, Shape shape, int64_t classes) {
  return MadeUpSource(size, image_fields(shape), classes);
}

MadeUpSource MadeUpSource::binary(int64_t size, Shape shape) {
  return MadeUpSource(size, {{"input", DType::kF32, std::move(shape)}, {"target", DType::kF32, {1}}}, 1);
}

MadeUpSource MadeUpSource::tokens(int64_t size, int64_t context, int64_t classes) {
  return MadeUpSource(size, {{"input", DType::kI64, {context}}, {"target", DType::kI64, {context}}}, classes);
}

void MadeUpSource::read(std::span<const int64_t> indices, std::span<const ArrayView> arrays) const {
  for (size_t row = 0; row < indices.size(); ++row) {
    const auto sample = static_cast<uint64_t>(indices[row]);
    for (size_t f = 0; f < arrays.size(); ++f) {
      const int64_t n = num_elements(fields_[f].shape);
      if (f == 1 && fields_[f].dtype == DType::kF32) {
        const Philox stream(7, RandomPurpose::kNoise, "targets");
        arrays[f].as<float>()[row] = static_cast<float>(stream.block(0, sample, 0)[0] % 2);
        continue;
      }
      if (fields_[f].dtype == DType::kF32) {
        const std::span<float> out = arrays[f].as<float>().subspan(row * n, n);
        fill_uniform(Philox(7, RandomPurpose::kNoise, "images"), -1, 1, sample * n, out);
        if (indices[row] == poisoned_) out[0] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      const Philox stream(7, RandomPurpose::kNoise, f == 0 ? "tokens" : "targets");
      for (int64_t i = 0; i < n; ++i) {
        const int64_t token = stream.block(0, sample, static_cast<uint32_t>(i))[0] % classes_;
        arrays[f].as<int64_t>()[row * n + i] = labels_.empty() ? token : labels_[static_cast<size_t>(token)];
      }
    }
  }
}

std::vector<std::string> tiny_names() {
  std::vector<std::string> names = {"mlp",          "convnet", "gpt-tied", "gpt-untied", "llama-tied",
                                    "llama-untied", "rnn",     "lstm",     "resnet",     "resnet-pooled",
                                    "distilled",    "binary",  "weighted", "units",      "normed"};
  for (const char* name :
       {"mlp", "convnet", "gpt-tied", "llama-tied", "rnn", "lstm", "resnet", "distilled", "units", "normed"})
    names.push_back(std::string(name) + "@bfloat16");
  for (const char* name : {"mlp", "gpt-tied", "lstm", "resnet", "distilled"})
    names.push_back(std::string(name) + "@two-types");
  return names;
}

std::string test_name(std::string name) {
  std::ranges::replace_if(name, [](char c) { return c == '-' || c == '@'; }, '_');
  return name;
}

namespace {

// Of a network that is a list of units; empty: it has a name.
std::vector<std::string> listed_units(const std::string& name) {
  if (name == "resnet-pooled")  // as resnet18 begins: a kernel of 7 and a pool
    return {"stem: conv_norm out_channels=4 kernel=7 stride=2 padding=3 pool=true prefix=",
            "layer1.0: residual_block out_channels=4", "fc: pool_linear out=classes"};
  if (name == "resnet")  // both kinds of shortcut, with and without a stride
    return {"stem: conv_norm out_channels=4 prefix=", "layer1.0: residual_block out_channels=4",
            "layer2.0: residual_block out_channels=8 stride=2 shortcut=pad",
            "layer3.0: residual_block out_channels=16 stride=2", "fc: pool_linear out=classes"};
  if (name == "units")  // single layers, of every kind
    return {"c1: conv out_channels=6 kernel=3 padding=1 activation=silu",
            "n1: group_norm groups=3",
            "p1: max_pool kernel=3 stride=2 padding=1",
            "c2: conv out_channels=8 kernel=3 stride=2 padding=1 bias=false",
            "a2: activation activation=tanh",
            "d: dropout p=0.3",
            "p2: avg_pool kernel=2 stride=1",
            "g: global_avg_pool",
            "n2: layer_norm",
            "fc1: linear out=12 activation=softplus",
            "a3: activation activation=leaky_relu",
            "fc: linear out=classes"};
  if (name == "normed")  // batch norm as a layer, with every way to an activation, and a bottleneck
    return {"n0: batch_norm",
            "c1: conv out_channels=6 kernel=3 padding=1 bias=false",
            "n1: batch_norm activation=relu",
            "c2: conv out_channels=8 kernel=3 stride=2 padding=1 activation=leaky_relu",
            "n2: batch_norm momentum=0.3 activation=silu",
            "b: bottleneck_block width=5 out_channels=16 stride=2",
            "c3: conv out_channels=12 kernel=1",
            "n3: batch_norm activation=sigmoid",
            "g: global_avg_pool",
            "fc: linear out=classes"};
  return {};
}

bool reads_text(const std::string& name) {
  return name.starts_with("gpt") || name.starts_with("llama") || name == "rnn" || name == "lstm";
}

Shape image_of(const std::string& name) {
  if (name == "gan") return {1, 8, 8};
  if (name == "resnet-pooled") return {3, 16, 16};
  if (name == "resnet" || name == "units" || name == "normed") return {3, 8, 8};
  return name == "binary" ? Shape{1, 12, 12} : Shape{1, 28, 28};
}

void set_text_model(const std::string& name, config::Config* config) {
  config->model.name = name.substr(0, name.find('-'));
  config->model.layers = 2;
  config->model.heads = 2;
  config->model.kv_heads = 1;
  config->model.width = 16;
  config->model.dropout = 0.2;
  config->model.tie_embeddings = name.ends_with("-tied");
  config->model.qkv_bias = name == "llama-untied";
  config->training.dataset = "text";
  config->training.seq_len = kContext;
}

void set_image_model(const std::string& name, config::Config* config) {
  config->model.units = listed_units(name);
  const bool named = name == "gan" || name == "convnet";
  config->model.name = !config->model.units.empty() ? "blocks" : named ? name : "mlp";
  if (name == "gan") {
    config->training.objective = "gan";
    config->model.latent = 10;
    config->model.generator_hidden = {24};
    config->model.discriminator_hidden = {32};
    return;
  }
  if (config->model.units.empty()) config->model.hidden = {32, 24};
  if (name == "binary") config->training.loss = "binary";
  if (name == "distilled") config->training.objective = "distillation";
  if (name == "weighted") {  // no two microbatches weigh the same
    config->training.class_weights = {0.1, 3, 0, 0.7, 1, 2.3, 0.01, 5, 0.3, 1.9};
    config->training.label_smoothing = 0.1;
  }
}

// The model of `name`, and what it reads; returns the shape of that.
models::DataShape set_network(const std::string& name, TinyTraining* t) {
  constexpr int64_t kSamples = 1000, kClasses = 10, kTokens = 13;
  models::DataShape shape;
  if (reads_text(name)) {
    set_text_model(name, &t->config);
    t->source = std::make_shared<MadeUpSource>(MadeUpSource::tokens(kSamples, kContext, kTokens));
    shape.input = {DType::kI64, {-1, kContext}};
  } else {
    set_image_model(name, &t->config);
    const Shape image = image_of(name);
    t->source =
        std::make_shared<MadeUpSource>(name == "binary" ? MadeUpSource::binary(kSamples, image)
                                                        : MadeUpSource::images(kSamples, image, kClasses));
    shape.input = {DType::kF32, {-1, image[0], image[1], image[2]}};
  }
  shape.classes = t->source->classes();
  return shape;
}

}  // namespace

TinyTraining tiny(const std::string& full_name) {
  TinyTraining t;
  t.name = full_name;
  const std::string name = full_name.substr(0, full_name.find('@'));
  t.config = base_config();
  const models::DataShape shape = set_network(name, &t);
  t.spec = models::describe(t.config.model, shape);
  if (name != full_name) {
    const std::string types = full_name.substr(name.size() + 1), param = types.substr(0, types.find('@'));
    if (param.ends_with("-types")) {
      mix_precisions(param == "two-types" ? 2 : 3, &t);
    } else {
      t.config.training.mixed_precision_param = param;
    }
    if (param != types) t.config.training.mixed_precision_reduce = types.substr(param.size() + 1);
  }
  models::compute_in(models::precision_policy(t.config.training), &t.spec);
  models::reduce_in(models::precision_of(t.config.training.mixed_precision_reduce), &t.spec);
  if (name == "distilled") {
    config::Model teacher;
    teacher.hidden = {48};
    plan::ModelSpec network = models::describe(teacher, shape);
    models::compute_in(models::teachers_precision_policy(t.config.training), &network);
    models::add_teacher(std::move(network), &t.spec);
  }
  return t;
}

TinyTraining adapted(const std::string& name) {
  TinyTraining tiny = testing::tiny(name);
  tiny.config.lora.rank = 3;
  tiny.config.lora.alpha = 6;
  const std::string& model = tiny.config.model.name;
  const bool recurrent = model == "rnn" || model == "lstm";
  tiny.config.lora.dropout = recurrent ? 0 : 0.25;
  if (recurrent) tiny.config.lora.target_modules = {"*", "embed"};
  if (model == "gpt") tiny.config.lora.target_modules = {"*", "wte", "wpe", "lm_head"};
  if (model == "llama") tiny.config.lora.target_modules = {"*", "embed_tokens", "lm_head"};
  return tiny;
}

void describe_again(TinyTraining* tiny) {
  models::DataShape shape;
  shape.input = tiny->spec.units.front().input;
  shape.input.tensor_axis = -1;
  shape.classes = tiny->source->classes();
  tiny->spec = models::describe(tiny->config.model, shape);
  models::compute_in(models::precision_policy(tiny->config.training), &tiny->spec);
}

plan::ModelSpec TinyTraining::trained_spec() const {
  plan::ModelSpec trained = spec;
  models::apply_lora(config.lora, &trained);
  plan::apply_optimizer(config.optimizer, &trained);
  trained.averages_statistics = config.ema.decay > 0;
  return trained;
}

train::OptimizerRule TinyTraining::rule() const {
  return {config.optimizer, config.lr_scheduler, config.ema};
}

train::Objective TinyTraining::objective() const {
  const std::vector<double>& weights = config.training.class_weights;
  return train::make_objective(config, /*tokens=*/false, {weights.begin(), weights.end()});
}

std::vector<train::PhaseState> first_phases(const StepOptions& options, const plan::ModelSpec& spec) {
  if (!options.phases.empty()) return options.phases;
  return std::vector<train::PhaseState>(static_cast<size_t>(plan::phases_of(spec)), {0, options.loss_scale});
}

std::vector<train::PhaseState> phases_after(const train::RunOutputs& outputs) {
  std::vector<train::PhaseState> phases;
  for (const train::PhaseOutputs& phase : outputs.phases) phases.push_back(phase.state);
  return phases;
}

StepResult run_steps(const TinyTraining& tiny, const StepOptions& options) {
  const train::OptimizerRule rule = tiny.rule();
  const plan::ModelSpec spec = tiny.trained_spec();
  plan::TrainOptions train_options;
  train_options.microbatch_sizes = options.microbatch_sizes;
  train_options.recompute = options.recompute;
  train_options.optimizer_states = plan::forms_of(rule.states());
  const plan::Program program = plan::compile_train(spec, plan::Layout(), train_options);
  train::ModelState model(spec, rule.states(), /*seed=*/42);
  if (options.start) options.start(model);
  train::RankContext rank;
  rank.threads = options.threads;
  rank.seed = 42;
  const train::Objective objective = tiny.objective();
  train::Executor executor(program, model, objective, &rule, rank);
  data::LoaderOptions loader_options;
  loader_options.sizes = options.microbatch_sizes;
  loader_options.position = options.position;
  const data::Source& source = options.source != nullptr ? *options.source : *tiny.source;
  const bool shuffle = options.source == nullptr;
  data::Loader loader(source, data::SampleOrder(42, source.size(), shuffle), loader_options);
  StepResult result;
  std::vector<train::PhaseState> phases = first_phases(options, spec);
  for (int s = 0; s < options.steps; ++s) {
    train::RunInputs inputs;
    inputs.loader = &loader;
    inputs.step = options.first_step + s;
    inputs.rates = {tiny.config.optimizer.lr, tiny.config.optimizer.beta1};
    inputs.max_norm = options.max_norm;
    inputs.phases = phases;
    inputs.grad_scaler = tiny.config.grad_scaler;
    result.outputs = executor.run(inputs);
    phases = phases_after(result.outputs);
    result.skipped += result.outputs.scale.finite ? 0 : 1;
    result.losses.push_back(result.outputs.loss.mean());
  }
  for (size_t u = 0; u < tiny.spec.units.size(); ++u) {
    const train::UnitState& unit = model.unit(static_cast<int>(u));
    result.params.push_back(unit.params);
    result.read.push_back(unit.read());
    result.states.insert(result.states.end(), unit.states.begin(), unit.states.end());
    result.statistics.push_back(unit.statistics);
    const bool has = plan::flat_layout(spec).units[u].trained_elements > 0;
    result.gradients.push_back(has ? executor.gradient(gradient_value(program, static_cast<int>(u))).clone()
                                   : at::Tensor());
  }
  return result;
}

bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].defined() != b[i].defined()) return false;
    if (!a[i].defined()) continue;
    if (a[i].nbytes() != b[i].nbytes()) return false;
    if (std::memcmp(a[i].data_ptr(), b[i].data_ptr(), a[i].nbytes()) != 0) return false;
  }
  return true;
}

double relative_error(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double difference = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i].defined()) continue;
    difference = std::max(difference, (a[i] - b[i]).abs().max().item<double>());
    scale = std::max(scale, b[i].abs().max().item<double>());
  }
  return scale > 0 ? difference / scale : difference;
}

}  // namespace furrow::testing
