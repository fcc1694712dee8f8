// One training run, piece by piece.  session.h is the door; this is the machine behind it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/models/architectures.h"
#include "furrow/observe/run_folder.h"
#include "furrow/observe/step_times.h"
#include "furrow/plan/compile.h"
#include "furrow/storage/artefact.h"
#include "furrow/train/checkpointer_torch.h"
#include "furrow/train/evaluator_torch.h"
#include "furrow/train/executor_torch.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/predict.h"
#include "furrow/train/session.h"
#include "furrow/train/step_ledger.h"

namespace furrow::train {

// Data, network and programs of a config: what training and evaluation share.
struct Workbench {
  config::Config config;
  std::shared_ptr<data::Dataset> dataset;
  plan::ModelSpec spec;
  std::shared_ptr<const Objective> objective;
  RankContext rank;
};
Workbench open_workbench(const config::Config& config, std::shared_ptr<data::Dataset> dataset,
                         const Extensions* extensions, const CancelToken* cancel, int local_rank = 0);

// What networks are told of the samples of a source.
models::DataShape shape_of(const data::Source& source);
// The same beside the teacher of `request`, where it has one; what is trained alone (an evaluation, an
// exported model) has none.  Error{invalid_argument}: its network, or what it was trained to read, is not for
// this data.
Workbench with_teacher(const TrainRequest& request, Workbench bench);

std::string layout_text(const plan::Layout& layout);  // "dp_replicate 2, dp_shard 1"

class Run {
 public:
  explicit Run(const TrainRequest& request);
  observe::Summary run();

 private:
  void check_same_everywhere() const;
  void check_same_arithmetic();
  void open_folder();
  bool first() const { return bench_.rank.rank == 0; }  // owns folder, sinks and log
  bool stopped() const;                                 // asked to: the same on every rank
  std::string run_name() const;
  void compile();
  void restore();
  void begin_record();
  void record_failure();
  void loop();
  bool over() const;                                          // no step is left
  std::optional<observe::Summary> summary_of_before() const;  // of a resumed run that was over already
  void say_over() const;
  bool out_of_patience() const;
  bool wants_more() const;
  bool validation_falls_due() const;
  void one_step();
  bool traces_next_step() const;
  bool scales_loss() const;
  void judge(size_t phase, const PhaseOutputs& outputs) const;  // a step not applied: whether to go on
  void log_step(const RunOutputs& outputs, int64_t duration_ns);
  void validate();
  LossSums validation_sums();
  void swap_average();  // [ema]: the weights and their average change places, on every rank
  void keep_best(double loss, double accuracy);
  void save();
  void finish();
  void test();
  void export_model();
  void draw();  // pictures of the exported model; on rank 0, last: a model in parts is let go for a whole one
  void release();  // model, states and programs: the run needs them no more
  storage::Artefact description() const;
  void check_classes() const;
  // By tensor rank, on rank 0; what is here elsewhere; every rank calls it.
  std::vector<UnitState> whole_unit(int unit) const;
  UnitState whole_part(int unit, int tensor_rank) const;
  void bring(int unit, int rank, const at::Tensor& own, const at::Tensor& place) const;
  void emit(const observe::StepRecord& record);
  void audit();
  void measure();      // what the steps took; every rank calls it
  void note_memory();  // what training held so far
  void predict();      // ... and what they were to take
  void add_prediction(const plan::Simulation& simulation, const std::vector<plan::Program>& programs,
                      const std::string& source);
  Resident resident() const;
  Machine machine() const;
  void open_costs();
  const plan::Costs* known_costs();
  void choose_buckets();  // [parallelism] bucket_cap_mb -1: as rank 0 does, on every rank
  void plan_memory();
  void log_memory() const;
  int64_t planned_on_device() const;
  observe::Summary summary() const;

  plan::Layout layout_;
  TrainRequest request_;
  Workbench bench_;
  plan::ModelSpec spec_;  // what this rank runs of the model: all of it, but for a tensor axis
  plan::RankOptions ranks_;
  OptimizerRule rule_;
  std::string run_folder_;
  std::string unlike_;                        // which rank's arithmetic differs from rank 0's
  std::string deterministic_;                 // plan::deterministic_line
  std::string buckets_;                       // why they are as large as they are; of rank 0
  std::optional<observe::RunFolder> folder_;  // of rank 0
  std::optional<observe::SinkGroup> sinks_;   // of rank 0: the folder first
  std::unique_ptr<ModelState> model_;
  std::unique_ptr<Executor> trainer_, saver_, swapper_;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<Checkpointer> checkpointer_;
  std::unique_ptr<data::Loader> loader_;
  std::unique_ptr<plan::Costs> costs_;     // of rank 0, where they can be predicted; from compile() on
  std::unique_ptr<plan::Costs> analytic_;  // of known_costs()
  plan::ProfiledDevice device_;
  PlannedMemory planned_;
  int64_t total_steps_ = 0;
  int64_t global_batch_ = 0;
  int64_t own_samples_ = 0;  // of a step, on this rank

  RunState state_;
  int64_t stop_ = 0;  // in a world of several ranks: what they voted
  StepLedger ledger_;
  std::optional<observe::RankAudit> audit_;
  observe::StepFigures measured_;
  std::optional<observe::Prediction> prediction_;
  int64_t data_bytes_ = 0, data_peak_bytes_ = 0;  // of the opened data set, and while it was opened
  std::vector<UnitState> best_;                   // parameters of the best model so far, by unit
  bool best_lent_ = false;                        // a save behind training may be reading them
  bool best_restored_ = false;
  std::optional<std::array<int64_t, kMemoryKinds>> trained_memory_;  // peaks until the last save
  int64_t saved_step_ = -1;
  int64_t saves_ = 0, save_wait_ns_ = 0;  // between steps
  std::string status_ = "running";
  observe::StepTimes times_;  // of this process, without its first step
  double time_to_first_step_s_ = 0;
  double test_loss_ = 0, test_accuracy_ = 0;
  bool tested_ = false;
  int64_t first_step_ = 0;                  // of this process
  std::vector<observe::TraceEvent> trace_;  // of rank 0
};

}  // namespace furrow::train
