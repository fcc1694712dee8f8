// What single keys cannot say: combinations that are impossible, and settings that do nothing beside others.
#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/config/comm_check.h"
#include "furrow/config/config.h"
#include "furrow/config/schema.h"

namespace furrow::config {
namespace {

[[noreturn]] void refuse(const Config& config, std::string_view name, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, where(config, name) + message);
}

void check_batches(const Config& config) {
  const int64_t global = config.training.global_batch_size, local = config.training.local_batch_size;
  if (global == -1) return;
  if (global >= local) return;
  const std::string why =
      global == 0 ? "training.global_batch_size is 0: write -1, or at least local_batch_size"
                  : fmt::format(
                        "global_batch_size {0} is less than one microbatch: lower local_batch_size {1} "
                        "to {0}, or raise it to {1} or more",
                        global, local);
  refuse(config, "training.global_batch_size", why);
}

void check_length(const Config& config) {
  const bool steps = config.training.steps > 0, epochs = config.training.epochs > 0;
  if (steps && epochs) {
    refuse(
        config, "training.steps",
        fmt::format("training.steps = {} and training.epochs = {} are both set: keep one, set the other to 0",
                    config.training.steps, format_double(config.training.epochs)));
  }
  if (!steps && !epochs) {
    refuse(config, "training.steps",
           "how long to train is missing: set training.steps or training.epochs above 0");
  }
}

void check_model(const Config& config) {
  const Model& model = config.model;
  if (model.name != "gpt" && model.name != "llama") return;
  const bool heads_share_width = model.name == "gpt" || model.head_dim == 0;
  if (heads_share_width && model.width % model.heads != 0) {
    refuse(config, "model.heads",
           fmt::format("model.width {} = {} x model.heads {} + {}: heads must divide width", model.width,
                       model.width / model.heads, model.heads, model.width % model.heads));
  }
  if (model.kv_heads > 0 && model.heads % model.kv_heads != 0) {
    refuse(
        config, "model.kv_heads",
        fmt::format("model.heads {} = {} x model.kv_heads {} + {}: kv_heads must divide heads", model.heads,
                    model.heads / model.kv_heads, model.kv_heads, model.heads % model.kv_heads));
  }
  if (model.context != 0 && model.context < config.training.seq_len) {
    refuse(
        config, "model.context",
        fmt::format(
            "training.seq_len {} is longer than model.context {}: raise context, or set it to 0 for seq_len",
            config.training.seq_len, model.context));
  }
}

void check_crop(const Config& config) {
  const Data& data = config.data;
  const bool own = data.crop_size > 0;
  const int64_t crop = own ? data.crop_size : data.image_size;
  if (crop <= data.resize_size) return;
  refuse(config, "data.resize_size",
         fmt::format(
             "data.{} {} is more than data.resize_size {} leaves of an image: raise resize_size, or set it "
             "to 0 for the same",
             own ? "crop_size" : "image_size", crop, data.resize_size));
}

void check_regions(const Config& config) {
  const Data& data = config.data;
  const auto ascend = [&](const char* key, double least, double largest) {
    if (least <= largest) return;
    refuse(config, fmt::format("data.random_resized_crop_min_{}", key),
           fmt::format("data.random_resized_crop_min_{0} {1} is more than random_resized_crop_max_{0} {2}: "
                       "lower the one, or raise the other",
                       key, format_double(least), format_double(largest)));
  };
  ascend("scale", data.random_resized_crop_min_scale, data.random_resized_crop_max_scale);
  ascend("ratio", data.random_resized_crop_min_ratio, data.random_resized_crop_max_ratio);
}

void check_data(const Config& config) {
  try {
    memory_budget(config.data);
  } catch (const Error& error) {
    refuse(config, "data.memory_budget", error.message());
  }
  const double held_back = config.data.validation_fraction + config.data.test_fraction;
  if (config.training.dataset == "text" && held_back >= 1) {
    refuse(config, "data.validation_fraction",
           fmt::format("data.validation_fraction {} + data.test_fraction {} leave nothing to train on",
                       format_double(config.data.validation_fraction),
                       format_double(config.data.test_fraction)));
  }
  const std::string& dataset = config.training.dataset;
  for (const std::string_view name : {"gpt", "llama", "rnn", "lstm"}) {
    if (config.model.name == name && dataset != "text" && dataset != "pack" && dataset != "mixture")
      refuse(config, "training.dataset",
             fmt::format(
                 "model.name = {} reads text: set training.dataset = text, or a pack or a mixture of text, "
                 "not {}",
                 name, dataset));
  }
  if (config.model.name == "mlp" && dataset == "text") {
    refuse(
        config, "training.dataset",
        "model.name = mlp reads numbers, not text: set training.dataset = idx, cifar10, folder, table, or a "
        "pack or a mixture of those; gpt, llama, rnn and lstm read text");
  }
  if (config.model.name == "convnet" && (dataset == "text" || dataset == "table")) {
    refuse(config, "training.dataset",
           fmt::format(
               "model.name = convnet reads images: set training.dataset = idx, cifar10, folder, or a pack "
               "or a mixture of those, not {}",
               dataset));
  }
  if (config.data.resize_size > 0) check_crop(config);
  if (config.data.random_resized_crop) check_regions(config);
}

void check_optimizer(const Config& config) {
  const LrScheduler& schedule = config.lr_scheduler;
  const bool moved = schedule.decay_type == "one_cycle" && schedule.cycle_momentum;
  if (config.optimizer.name == "sgd" && config.optimizer.nesterov && config.optimizer.momentum == 0 &&
      !moved) {
    refuse(config, "optimizer.nesterov", "optimizer.nesterov needs optimizer.momentum above 0");
  }
  if (moved && schedule.base_momentum > schedule.max_momentum) {
    refuse(config, "lr_scheduler.base_momentum",
           fmt::format("lr_scheduler.base_momentum {} is above max_momentum {}",
                       format_double(schedule.base_momentum), format_double(schedule.max_momentum)));
  }
  if (schedule.decay_type != "one_cycle" && config.training.steps > 0 && schedule.total_steps == -1 &&
      schedule.warmup_steps > config.training.steps) {
    refuse(config, "lr_scheduler.warmup_steps",
           fmt::format("lr_scheduler.warmup_steps {0} is more than training.steps {1}: set "
                       "lr_scheduler.warmup_steps to at most {1} (--lr_scheduler.warmup_steps 0 for none)",
                       schedule.warmup_steps, config.training.steps));
  }
}

void check_gan(const Config& config) {
  if (config.validation.enable && config.data.validation_fraction > 0) {
    refuse(config, "validation.enable",
           "no loss on held-back data says which generator is best: set validation.enable = false, or "
           "data.validation_fraction = 0");
  }
  if (config.data.normalize) {
    refuse(config, "data.normalize",
           "a generator makes pixels in [0, 1], and normalized ones are others: set data.normalize = false");
  }
}

void check_distillation(const Config& config) {
  if (config.distillation.teacher.empty()) {
    refuse(config, "distillation.teacher",
           "training.objective = distillation needs a teacher: set distillation.teacher to a run's model/");
  }
  if (config.training.loss != "cross_entropy") {
    refuse(config, "training.loss",
           fmt::format("training.objective = distillation compares classes: it needs training.loss = "
                       "cross_entropy, not {}",
                       config.training.loss));
  }
}

void check_metric(const Config& config) {
  if (config.training.loss != "mse" || config.validation.metric != "accuracy") return;
  refuse(config, "validation.metric",
         "validation.metric = accuracy counts right answers, and training.loss = mse has none: set "
         "validation.metric = loss");
}

// Tokens are classes; which data have two classes their files say (data/binary_targets.h).
void check_loss(const Config& config) {
  const std::string &loss = config.training.loss, &model = config.model.name,
                    &dataset = config.training.dataset;
  if (loss == "cross_entropy") return;
  const bool of_tokens = model == "gpt" || model == "llama" || model == "rnn" || model == "lstm";
  if (!of_tokens && dataset != "text") return;
  refuse(config, "training.loss",
         fmt::format("training.loss = {}, and {} gives the next token: set training.loss = cross_entropy",
                     loss == "binary" ? "binary tells two classes apart" : "mse compares numbers",
                     of_tokens ? "model.name = " + model : "training.dataset = text"));
}

void check_class_weights(const Config& config) {
  const Training& training = config.training;
  const std::vector<double>& weights = training.class_weights;
  if (weights.empty() && !training.balance_classes) return;
  const std::string_view key = weights.empty() ? "training.balance_classes" : "training.class_weights";
  if (!weights.empty() && training.balance_classes) {
    refuse(config, "training.balance_classes",
           "training.class_weights and training.balance_classes both say what a class counts: leave out one "
           "of them");
  }
  if (training.objective != "supervised") {
    refuse(config, key,
           fmt::format("{} weighs the classes of data, which training.objective = {} does not: leave it out",
                       key, training.objective));
  }
  if (!weights.empty() && std::ranges::all_of(weights, [](double weight) { return weight == 0; })) {
    refuse(config, key, "training.class_weights are all 0, so that nothing is trained: raise one of them");
  }
  if (training.balance_classes && training.dataset == "text") {
    refuse(config, key,
           "training.balance_classes counts the samples of a class, and tokens are none: set "
           "training.class_weights, a number for each token, or neither");
  }
}

void check_objective(const Config& config) {
  const std::string &objective = config.training.objective, &model = config.model.name;
  if ((objective == "gan") != (model == "gan")) {
    const bool is_gan = model == "gan";
    refuse(config, is_gan ? "training.objective" : "model.name",
           fmt::format("model.name = {} and training.objective = {}: a gan is trained as a gan, and nothing "
                       "else is: set {}",
                       model, objective, is_gan ? "training.objective = gan" : "model.name = gan"));
  }
  if (objective == "gan") check_gan(config);
  if (objective == "distillation") check_distillation(config);
}

void check_backend(const Config& config) {
  if (const std::string objection = engine_objection(config.comm); !objection.empty())
    refuse(config, "comm.backend", objection);
  if (config.comm.backend != "nccl" || config.training.device == "cuda") return;
  refuse(config, "comm.backend",
         fmt::format("comm.backend = nccl moves memory of GPUs, and training.device = {} has none: set "
                     "training.device = cuda, or comm.backend = native",
                     config.training.device));
}

void check_offload(const Config& config) {
  if (!config.training.enable_cpu_offload || config.training.device != "cpu") return;
  refuse(config, "training.enable_cpu_offload",
         "training.enable_cpu_offload = true keeps optimizer state out of a device's memory, and "
         "training.device = cpu has none of its own: set it to false, or training.device = cuda");
}

// Stages are cut by hand in one way, where there are stages.
void check_stages(const Config& config) {
  const Parallelism& p = config.parallelism;
  std::vector<std::string_view> given;
  if (!p.pipeline_parallel_units_per_stage.empty()) given.emplace_back("pipeline_parallel_units_per_stage");
  if (!p.module_fqns_per_model_part.empty()) given.emplace_back("module_fqns_per_model_part");
  if (p.pipeline_parallel_layers_per_stage > 0) given.emplace_back("pipeline_parallel_layers_per_stage");
  if (!given.empty() && p.pipeline_parallel_degree == 1) {
    refuse(config, fmt::format("parallelism.{}", given[0]),
           fmt::format("parallelism.{} cuts the model into stages, and parallelism.pipeline_parallel_degree "
                       "is 1: set the ranks of the pipeline there, or leave the stages out",
                       given[0]));
  }
  if (given.size() < 2) return;
  refuse(config, fmt::format("parallelism.{}", given[1]),
         fmt::format("parallelism.{} and parallelism.{} both cut the stages: give one of them", given[0],
                     given[1]));
}

void check_buckets(const Config& config) {
  const double cap = config.parallelism.bucket_cap_mb;
  if (cap >= 0 || cap == -1) return;
  refuse(config, "parallelism.bucket_cap_mb",
         fmt::format("parallelism.bucket_cap_mb is {}: write -1 for one that is chosen, or at least 0",
                     format_double(cap)));
}

}  // namespace

void validate(const Config& config) {
  check_batches(config);
  check_length(config);
  check_model(config);
  check_data(config);
  check_optimizer(config);
  check_objective(config);
  check_metric(config);
  check_loss(config);
  check_class_weights(config);
  check_stages(config);
  check_buckets(config);
  check_backend(config);
  check_offload(config);
}

uint64_t memory_budget(const Data& data) {
  uint64_t bytes = 0;
  if (data.memory_budget.empty() || parse_bytes(data.memory_budget, bytes)) return bytes;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("data.memory_budget = \"{}\" is no number of bytes: write one such as \"256MiB\" or "
                  "\"2GB\"",
                  data.memory_budget));
}

std::string engine_objection(const Comm& comm) {
  const bool throttled = !comm.throttle.empty(), chosen = comm.algorithm != "auto";
  if (comm.backend == "native" || (!throttled && (!chosen || comm.backend == "nccl"))) return "";
  return fmt::format("comm.{} is about furrow's own backend, and comm.backend is {}: leave out one of them",
                     throttled ? "throttle" : "algorithm", comm.backend);
}

std::vector<std::string> ignored_settings(const Config& config) {
  std::vector<std::string> lines;
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      const bool given = config.origins.contains(field.name()) && field.get(config) != field.default_value;
      if (!given || applies(field, config)) continue;
      lines.push_back(fmt::format("{}{} = {} has no effect: it needs {}", where(config, field.name()),
                                  field.name(), to_toml(field.get(config)), field.spec.only_if));
    }
  }
  if (config.comm.backend == "nccl" && config.comm.algorithm != "auto") {
    lines.push_back(fmt::format(
        "{}comm.algorithm = \"{}\" is for memory of the host, which comm.backend = nccl leaves to furrow: "
        "NCCL chooses its own for memory of GPUs",
        where(config, "comm.algorithm"), config.comm.algorithm));
  }
  const std::string& kind = config.training.dataset;
  if (!config.data.memory_budget.empty() && kind != "pack" && kind != "mixture") {
    lines.push_back(
        fmt::format("{}data.memory_budget = \"{}\" bounds the batches prepared ahead, not the set: "
                    "training.dataset = {} is "
                    "not streamed; `furrow data pack` makes a pack of it, which is",
                    where(config, "data.memory_budget"), config.data.memory_budget, kind));
  }
  return lines;
}

int64_t model_context(const Config& config) {
  return config.model.context > 0 ? config.model.context : config.training.seq_len;
}

int64_t global_batch_size(const Training& training, int64_t data_ranks) {
  return training.global_batch_size > 0 ? training.global_batch_size : training.local_batch_size * data_ranks;
}

}  // namespace furrow::config
