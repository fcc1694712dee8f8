// The whole configuration of a run: a value, from a TOML file and overrides of the command line.
//
//   config::Config config = config::load("convnet.toml", {"--training.steps", "500", "--optimizer.lr=0.05"});
//
// Each section is a struct of its own header, whose fields() is the one declaration behind parsing,
// overrides, help and docs/config.md.  Strings may hold ${NAME} and ${NAME:-default}, from the environment;
// $${ is a plain ${. Functions here are thread safe as long as nobody changes the environment.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/config/activation_checkpoint.h"
#include "furrow/config/checkpoint.h"
#include "furrow/config/comm.h"
#include "furrow/config/data.h"
#include "furrow/config/debug.h"
#include "furrow/config/distillation.h"
#include "furrow/config/ema.h"
#include "furrow/config/grad_scaler.h"
#include "furrow/config/job.h"
#include "furrow/config/lora.h"
#include "furrow/config/lr_scheduler.h"
#include "furrow/config/metrics.h"
#include "furrow/config/model.h"
#include "furrow/config/optimizer.h"
#include "furrow/config/parallelism.h"
#include "furrow/config/profiling.h"
#include "furrow/config/training.h"
#include "furrow/config/validation.h"

namespace furrow::config {

// Where a value was written.  Line 0: on the command line.
struct Origin {
  std::string file;
  int line = 0;
};

struct Config {
  Job job;
  Model model;
  Training training;
  Optimizer optimizer;
  LrScheduler lr_scheduler;
  Ema ema;
  GradScaler grad_scaler;
  Distillation distillation;
  Lora lora;
  Data data;
  Checkpoint checkpoint;
  ActivationCheckpoint activation_checkpoint;
  Validation validation;
  Metrics metrics;
  Profiling profiling;
  Debug debug;
  Parallelism parallelism;
  Comm comm;

  // "training.steps" -> where; a key without an entry has its default (or was set by the program).
  std::map<std::string, Origin, std::less<>> origins;

  template <class V>
  static void sections(V& v) {
    v("job", &Config::job, "What a run is called and where it goes.");
    v("model", &Config::model, "The architecture.");
    v("training", &Config::training, "Data, batches, length and numerics of a run.");
    v("optimizer", &Config::optimizer, "The update rule.");
    v("lr_scheduler", &Config::lr_scheduler, "The learning rate of each step.");
    v("ema", &Config::ema, "An average of the weights.");
    v("grad_scaler", &Config::grad_scaler, "The loss scale of float16.");
    v("distillation", &Config::distillation, "A trained model that teaches the one in training.");
    v("lora", &Config::lora, "Low-rank adapters beside frozen layers.");
    v("data", &Config::data, "Files, splits and the feed.");
    v("checkpoint", &Config::checkpoint, "Saving, keeping and resuming.");
    v("activation_checkpoint", &Config::activation_checkpoint,
      "Computing activations again instead of keeping them.");
    v("validation", &Config::validation, "Measuring on held-back data, early stopping, the best model.");
    v("metrics", &Config::metrics, "What is logged and drawn.");
    v("profiling", &Config::profiling, "The trace of the executed program.");
    v("debug", &Config::debug, "Randomness and reproducibility.");
    v("parallelism", &Config::parallelism, "Degrees of the mesh axes.");
    v("comm", &Config::comm, "How ranks find each other and talk.");
  }
};
bool operator==(const Config& a, const Config& b);  // of the values; where they were written does not count

// Reads and checks a file.  `overrides` are command-line words: "--section.key", "value" or
// "--section.key=value"; a boolean without a value is true.  Error{invalid_argument} names file, line, key
// and the nearest valid one; Error{not_found} names the file.
Config load(const std::string& path, const std::vector<std::string>& overrides = {});
Config parse(std::string_view text, const std::string& file_name,
             const std::vector<std::string>& overrides = {});

// Changes one key, as an override does; the combination of keys is not checked (see validate).
void set(Config& config, std::string_view name, std::string_view value);

// Combinations that cannot be: batch arithmetic (shows the sum), steps and epochs, context and seq_len, heads
// and width. load and parse call it.  Error{invalid_argument}.
void validate(const Config& config);

// One line for each setting that was given a value and has no effect beside the others.
std::vector<std::string> ignored_settings(const Config& config);

// The resolved configuration, every key; parse(to_toml(c)) == c.
std::string to_toml(const Config& config);
std::string section_toml(const Config& config,
                         std::string_view section);  // the lines of one section, without [section]

// "convnet.toml:12: " or "command line: " in front of a message about `name` ("training.steps"); "" for a
// default.
std::string where(const Config& config, std::string_view name);

// Is this word of the command line an override ("--section.key..."), and the overrides among `words`, removed
// from it.
bool is_override(std::string_view word);
std::vector<std::string> take_overrides(std::vector<std::string>& words);

// The keys that change the mathematics, sorted by name, with their values as TOML.
using Recipe = std::vector<std::pair<std::string, std::string>>;
Recipe recipe_of(const Config& config);
// One line per difference: "optimizer.lr: 0.1 in the checkpoint, 0.2 now".  `saved` and `current` are sorted
// by name.
std::vector<std::string> recipe_difference(const Recipe& saved, const Recipe& current);

// [model] context, or seq_len where it is 0.
int64_t model_context(const Config& config);
// global_batch_size, or local_batch_size x data_ranks where it is -1.
int64_t global_batch_size(const Training& training, int64_t data_ranks = 1);

}  // namespace furrow::config
