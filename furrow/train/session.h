// Training and evaluating one run: what `furrow train` and `furrow eval` do.  No tensors in this header.
//
//   auto config = config::load("convnet.toml", {});
//   train::TrainResult result = train::train(config, {.run_folder = "runs/a"});
//
// A session owns parameters, optimizer state and data position, picks the program by step (train, evaluate,
// save), and feeds the executor.  No process-global state: several sessions may run in threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/observe/sink.h"
#include "furrow/observe/summary.h"

namespace furrow::comm {
class Communicator;
}

namespace furrow::train {

// Unit kinds, blocks and architectures that a program adds to furrow's own (train/extensions_torch.h).
struct Extensions;

// samples_per_second of runs of one rank that a run on several compares with, where they are known.
struct OneRankRates {
  std::optional<double> same_batch;         // the global batch of one is that of all ranks together
  std::optional<double> same_batch_a_rank;  // the global batch of one is each rank's share
};

struct TrainRequest {
  config::Config config;
  std::string run_folder;  // created; must not hold a run unless `resume`
  bool resume = false;     // go on from the newest valid checkpoint, or from step 0 when there is none
  std::vector<observe::Sink*> sinks;  // besides the run folder
  // The data of `config`, opened by the caller while libtorch was loading; null: opened here.
  std::shared_ptr<data::Dataset> dataset;
  const Extensions* extensions = nullptr;
  const CancelToken* cancel = nullptr;  // set: save, write the summary with status "interrupted", return
  // This rank's place among others that train the same config; null: a world of one.  Rank 0 alone owns the
  // run folder and the sinks; the others need no `run_folder` and write only their pieces of checkpoints,
  // into its folder.  Set `cancel` on any rank and all stop after the same step.
  comm::Communicator* communicator = nullptr;
  int local_rank = 0;     // among the ranks of this host: which of its GPUs, for [training] device = "cuda"
  OneRankRates one_rank;  // for the audit's scaling efficiency
};

// Error codes: invalid_argument (config, data), data_loss (damaged files), resource_exhausted (disk full
// while saving), failed_precondition (NaN loss under policy stop: names step, unit, norm; a strict resume
// over another recipe; ranks with different configs or builds).  In a world of several ranks an error of one
// ends all: each throws it, naming the rank, or what it was waiting for.
observe::Summary train(const TrainRequest& request);

// Measures the units of `config` through the executor, at a quarter to twice its microbatch, and the
// collectives of the ranks, with all ranks at work at the same time: the text of a profile
// (docs/formats/profile.md), on rank 0; empty elsewhere.  Uses config, dataset, extensions and communicator
// of the request.
std::string profile(const TrainRequest& request);

struct EvalResult {
  std::string split;
  int64_t samples = 0;
  double loss = 0;      // mean over samples (tokens)
  double accuracy = 0;  // share of samples (tokens) whose arg max is the target; binary: whose logit's side
  std::vector<std::string> class_names = {};  // where the data or the model has them
};

// Metrics of a run's model (model/ if present, else its newest checkpoint) on "test" or "validation".  A
// folder that is an artefact itself is a language model: it is measured on the whole text that `config`
// names, split "text", through the tokenizer that it carries.
EvalResult evaluate(const std::string& run_folder, const std::string& split, const config::Config& config);

}  // namespace furrow::train
