// [training]: data, batches, length and numerics of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/config/field.h"

namespace furrow::config {

struct Training {
  std::string dataset = "idx";
  std::string dataset_path;
  int64_t local_batch_size = 64;
  int64_t global_batch_size = -1;
  int64_t seq_len = 64;
  int64_t steps = 0;
  double epochs = 0;
  double max_norm = 1.0;
  std::string objective = "supervised";
  std::string loss = "cross_entropy";
  double label_smoothing = 0;
  std::vector<double> class_weights;
  bool balance_classes = false;
  double pos_weight = 1;
  std::string dtype = "float32";
  std::string mixed_precision_param = "float32";
  std::vector<std::string> mixed_precision_units;
  std::string mixed_precision_reduce = "float32";
  int64_t threads = 0;
  std::string device = "cpu";
  bool enable_cpu_offload = false;
  std::string nan_policy = "stop";

  template <class V>
  static void fields(V& v) {
    samples(v);
    goals(v);
    weights(v);
    numbers(v);
  }
  friend bool operator==(const Training&, const Training&) = default;

 private:
  template <class V>
  static void samples(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("dataset", &Training::dataset,
      {.effect = kRecipe,
       .choices = "cifar10|folder|idx|mixture|pack|table|text",
       .doc = "Kind of data: cifar10, the binary version of CIFAR-10; folder, image files in "
              "a folder per class; idx, images and labels as MNIST stores "
              "them; mixture, several sets with shares, see data.mixture; pack, what `furrow data pack` "
              "wrote; table, CSV or "
              "Parquet; text, files of characters, bytes or subwords."});
    v("dataset_path", &Training::dataset_path,
      {.doc = "The folder with the files; text, table: the file, plain or .gz; text: also a folder of them; "
              "mixture: where its paths begin, or empty."});
    v("local_batch_size", &Training::local_batch_size,
      {.effect = kRecipe,
       .min = 1,
       .doc = "Samples of one microbatch; its shape never depends on the number of ranks."});
    v("global_batch_size", &Training::global_batch_size,
      {.effect = kRecipe,
       .min = -1,
       .doc = "Samples of one optimizer step, in microbatches of local_batch_size, the last one smaller "
              "where it "
              "does not divide; they are accumulated. -1: local_batch_size times the number of data-parallel "
              "ranks."});
    v("seq_len", &Training::seq_len,
      {.effect = kRecipe,
       .min = 1,
       .only_if = "training.dataset=mixture|pack|text",
       .doc = "Tokens of one sample of text."});
  }

  template <class V>
  static void goals(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("steps", &Training::steps,
      {.effect = kRecipe,
       .min = 0,
       .doc = "Optimizer steps. Exactly one of steps and epochs is above zero; on the command line it "
              "replaces the "
              "other one of the file."});
    v("epochs", &Training::epochs,
      {.effect = kRecipe, .min = 0, .doc = "Passes over the training split, rounded up to whole steps."});
    v("max_norm", &Training::max_norm,
      {.effect = kRecipe, .min = 0, .doc = "Gradients are scaled down to this global norm. 0: no clipping."});
    v("objective", &Training::objective,
      {.effect = kRecipe,
       .choices = "supervised|distillation|gan",
       .doc =
           "supervised: the loss of the model's output; distillation: that, and its divergence from a "
           "teacher's, see [distillation]; gan: discriminator and generator in turn, for model.name = gan."});
    v("loss", &Training::loss,
      {.effect = kRecipe,
       .choices = "cross_entropy|mse|binary",
       .only_if = "training.objective=supervised|distillation",
       .doc =
           "cross_entropy: one of several classes, or the next token; mse: squared error of numbers; binary: "
           "cross-entropy of one logit that tells two classes apart, above 0 for the second."});
    v("label_smoothing", &Training::label_smoothing,
      {.effect = kRecipe,
       .min = 0,
       .max = 1,
       .below_max = true,
       .only_if = "training.loss=cross_entropy",
       .doc = "Share of each target that is spread over all classes while training; evaluation measures the "
              "plain loss."});
  }

  template <class V>
  static void weights(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    constexpr std::string_view kClasses = "training.loss=cross_entropy|binary";
    v("class_weights", &Training::class_weights,
      {.effect = kRecipe,
       .min = 0,
       .only_if = kClasses,
       .doc =
           "What the loss of a sample counts, by its class: a number for each, in the order of the classes. "
           "Losses are divided by the sum of the weights of the samples of the global batch, as with the "
           "weight of PyTorch's CrossEntropyLoss; in evaluation too. Empty: each counts alike."});
    v("balance_classes", &Training::balance_classes,
      {.effect = kRecipe,
       .only_if = kClasses,
       .doc =
           "Class weights from the training split: samples / (classes x samples of the class), so that each "
           "class counts alike. Computed once, and kept with the run and its model."});
    v("pos_weight", &Training::pos_weight,
      {.effect = kRecipe,
       .min = 0,
       .above_min = true,
       .only_if = "training.loss=binary",
       .doc = "Multiplies the loss of the second class; the number of samples that it is divided by does not "
              "change, as with pos_weight of PyTorch's BCEWithLogitsLoss."});
  }

  template <class V>
  static void numbers(V& v) {
    constexpr Effect kRecipe = Effect::kRecipe;
    v("dtype", &Training::dtype,
      {.effect = kRecipe,
       .choices = "float32",
       .doc = "Type of the parameters that the optimizer steps, and of checkpoints."});
    v("mixed_precision_param", &Training::mixed_precision_param,
      {.effect = kRecipe,
       .choices = "float32|bfloat16|float16",
       .doc =
           "Type that units compute in: of a copy of the parameters, of activations and of their gradients. "
           "Statistics, softmax and losses are float32 inside, and so are the gradients of parameters. "
           "float16 "
           "trains with a loss scale, see grad_scaler."});
    v("mixed_precision_units", &Training::mixed_precision_units,
      {.effect = kRecipe,
       .doc = "Units that compute in another type than mixed_precision_param, each entry \"PATTERN "
              "param=TYPE\": "
              "PATTERN matches names of units, or their kinds, as * and ? do in a shell, such as [\"fc3 "
              "param=float32\", \"h.0 param=float16\"]; `furrow plan` lists both. Of several entries that "
              "match, "
              "the last one counts. Units that run the layers of another one follow it; \"teacher.\" starts "
              "those of "
              "a teacher."});
    v("mixed_precision_reduce", &Training::mixed_precision_reduce,
      {.effect = kRecipe,
       .choices = "float32|bfloat16|float16",
       .doc =
           "Type in which gradients are added over microbatches and travel between ranks. Of 16 bits, each "
           "microbatch's gradient is rounded to it, and every sum again, on one rank as on many: half the "
           "bytes on the wires and in gradient buffers, and the same bits in every layout. Norms and steps "
           "compute in float32. float16 trains with a loss scale, see grad_scaler."});
    v("threads", &Training::threads,
      {.effect = kRecipe,
       .min = 0,
       .max = 4096,
       .doc = "Threads of one rank. 0: OMP_NUM_THREADS where it is set (`--nproc` and torchrun set 1), else "
              "every core "
              "that the process may use. Equal bits need an equal number."});
    v("device", &Training::device,
      {.effect = kRecipe,
       .choices = "cpu|cuda|composed",
       .doc = "Where units compute and parameters lie. cuda: one NVIDIA GPU a rank, with a libtorch that has "
              "CUDA; "
              "its bits are not the CPU's. composed: the CPU by the operations that run on GPUs, to tell a "
              "GPU's "
              "rounding from a mistake."});
    v("enable_cpu_offload", &Training::enable_cpu_offload,
      {.effect = kRecipe,
       .doc =
           "Optimizer state and float32 masters lie in the host's memory, not the device's: gradients are "
           "copied down, the host steps them with its own kernels (every optimizer), parameters are copied "
           "up, beside the steps of other units. For a device other than cpu."});
    v("nan_policy", &Training::nan_policy,
      {.effect = kRecipe,
       .choices = "stop|skip",
       .doc = "What a loss or gradient that is not finite does: stop ends the run with an error, skip leaves "
              "the "
              "parameters of that step as they were."});
  }
};

}  // namespace furrow::config
