// Small networks over made-up data, one executor away from a training step: for the equalities of train/.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/data/loader.h"
#include "furrow/data/source.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::testing {

// `size` samples of pseudo-random pixels or tokens; sample i is a pure function of i.
class MadeUpSource : public data::Source {
 public:
  static MadeUpSource images(int64_t size, Shape shape, int64_t classes);
  static MadeUpSource tokens(int64_t size, int64_t context, int64_t classes);
  static MadeUpSource binary(int64_t size, Shape shape);  // images of two classes, as a number
  int64_t size() const override { return size_; }
  const std::vector<data::Field>& fields() const override { return fields_; }
  int64_t classes() const override { return classes_; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> arrays) const override;
  // Class or token c is called labels[c] from now on, where it is read and where it is expected.
  void relabel(std::vector<int64_t> labels) { labels_ = std::move(labels); }
  void poison(int64_t sample) { poisoned_ = sample; }  // its first pixel becomes NaN

 private:
  MadeUpSource(int64_t size, std::vector<data::Field> fields, int64_t classes)
      : size_(size), fields_(std::move(fields)), classes_(classes) {}
  int64_t size_;
  std::vector<data::Field> fields_;
  int64_t classes_;
  std::vector<int64_t> labels_;  // empty: as they are
  int64_t poisoned_ = -1;
};

// A network, its data and the settings of a step.
struct TinyTraining {
  // One of tiny_names(): an architecture, "-tied" or "-untied" where there is a choice, "@bfloat16" or
  // "@float16" where it does not compute in float32, "@float32@bfloat16" where gradients are not added in
  // that, "@two-types" or "@three-types" where units take turns.
  std::string name;
  config::Config config;
  std::shared_ptr<MadeUpSource> source;
  plan::ModelSpec spec;  // as described

  plan::ModelSpec trained_spec() const;  // under config.lora and config.optimizer
  train::OptimizerRule rule() const;     // of config
  train::Objective objective() const;    // the same
};
TinyTraining tiny(const std::string& name);
TinyTraining adapted(const std::string& name);  // the same: every layer that takes an adapter has one
void describe_again(TinyTraining* tiny);        // makes its spec that of config.model as it is now
std::vector<std::string> tiny_names();
std::string test_name(std::string name);  // as googletest takes it

struct StepOptions {
  std::vector<int64_t> microbatch_sizes = {4};
  std::vector<bool> recompute = {};
  int steps = 1;
  int64_t position = 0;    // of the first sample
  int64_t first_step = 0;  // counter of random numbers
  int threads = 1;
  bool trace = false;
  double max_norm = 1;
  train::LossScale loss_scale = {};                    // of the first step, in every phase
  std::vector<train::PhaseState> phases = {};          // what each is at before it; empty: at that scale
  const data::Source* source = nullptr;                // instead of the network's own, in its order
  std::function<void(train::ModelState&)> start = {};  // changes what one process starts from
};

// Everything a run of steps leaves behind.
struct StepResult {
  std::vector<at::Tensor> gradients;  // total of each unit in the last step (undefined without parameters)
  std::vector<at::Tensor> params;     // after it
  std::vector<at::Tensor> read;       // what blocks read of them
  std::vector<at::Tensor> states;
  std::vector<at::Tensor> statistics;  // by unit; undefined without any
  train::RunOutputs outputs;
  std::vector<double> losses;  // the mean of every step
  int64_t skipped = 0;         // steps that were not applied, or a phase of them was not
};
// Of a network with so many phases, what the first step finds.
std::vector<train::PhaseState> first_phases(const StepOptions& options, const plan::ModelSpec& spec);
// What the next one does.
std::vector<train::PhaseState> phases_after(const train::RunOutputs& outputs);
StepResult run_steps(const TinyTraining& tiny, const StepOptions& options);

// Same bits, element by element; false when one is undefined and the other is not.
bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

// max |a - b| / max |b| over all tensors.
double relative_error(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

}  // namespace furrow::testing
