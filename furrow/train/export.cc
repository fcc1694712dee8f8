// A trained model as an artefact: the one thing that everything downstream reads.
#include <fmt/format.h>

#include "furrow/base/log.h"
#include "furrow/base/version.h"
#include "furrow/models/lora.h"
#include "furrow/plan/topology.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/storage/artefact.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/adapters_torch.h"
#include "furrow/train/extensions_torch.h"
#include "furrow/train/initial_weights_torch.h"
#include "furrow/train/pictures_torch.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
namespace {

// The lines of [model] in a resolved config, of the network with its adapters merged.
std::string model_table(config::Config config, const plan::ModelSpec& spec) {
  config.model = models::merged_model(config.model, spec);
  const std::string text = config::to_toml(config);
  const size_t begin = text.find('\n', text.find("[model]")) + 1;
  const size_t end = text.find("\n[", begin);
  return text.substr(begin, end == std::string::npos ? end : end + 1 - begin);
}

// Of those units, when adapters are merged.
std::vector<storage::TensorInfo> exported_tensors(const plan::ModelSpec& spec,
                                                  const std::vector<int>& units) {
  const plan::ModelSpec merged = models::merged_network(spec);
  std::vector<storage::TensorInfo> tensors;
  for (const int u : units) {
    const plan::Unit& unit = merged.units[static_cast<size_t>(u)];
    for (const plan::Parameter& parameter : unit.parameters) {
      if (!parameter.tied()) tensors.push_back({parameter.name, DType::kF32, parameter.shape});
    }
    for (const plan::Statistic& statistic : unit.statistics)
      tensors.push_back({statistic.name, statistic.dtype(), statistic.shape});
  }
  return tensors;
}

}  // namespace

storage::Artefact Run::description() const {
  storage::Artefact artefact;
  const plan::ModelSpec& spec = bench_.spec;
  artefact.architecture = spec.architecture;
  artefact.model = model_table(bench_.config, spec);
  const plan::TensorSpec& input = spec.units.front().input;
  const plan::TensorSpec& output = spec.units[plan::heads_of(spec).front().unit].output;
  artefact.inputs = {{"input", input.dtype, input.shape}};
  artefact.outputs = {{"logits", output.dtype, output.shape}};
  artefact.preprocessing = bench_.dataset->preprocessing;
  artefact.labels = preprocess::class_names(artefact.preprocessing);
  artefact.lineage = {{"run", run_name()},
                      {"step", fmt::format("{}", state_.has_best ? state_.best_step : state_.step)},
                      {"furrow_version", std::string(furrow_version())},
                      {"seed", fmt::format("{}", bench_.rank.seed)}};
  return artefact;
}

// Unit by unit, so that rank 0 needs the memory of the largest and not of the whole model.
void Run::export_model() {
  const std::vector<plan::UnitPhases> phases = plan::unit_phases(bench_.spec);
  std::vector<int> units;  // no teacher, and nothing that only training runs
  for (size_t u = 0; u < phases.size(); ++u) {
    if (phases[u].evaluated) units.push_back(static_cast<int>(u));
  }
  if (!first()) {
    for (const int u : units) whole_unit(u);
    return;
  }
  std::vector<NamedTensor> adapters;
  TiedWeights tied(bench_.spec);
  const auto write = [&](storage::SafetensorsWriter& writer) {
    for (const int u : units) {
      const plan::Unit& unit = bench_.spec.units[static_cast<size_t>(u)];
      const std::vector<NamedTensor> own = tied.with_parted(unit, model_->tensors_of(u, whole_unit(u)));
      for (const NamedTensor& each : adapters_of(unit, own))
        adapters.push_back({each.name, each.view.clone()});
      for (const NamedTensor& each : without_adapters(unit, own))
        writer.write(each.name, tensor::to_array(each.view));
    }
  };
  storage::write_artefact(folder_->model(), description(), exported_tensors(bench_.spec, units), write);
  if (!adapters.empty()) export_adapters(folder_->file("adapter"), bench_.spec, bench_.config, adapters);
  if (bench_.config.metrics.enable_plots) draw();
}

void Run::release() {
  best_.clear();
  evaluator_.reset();
  swapper_.reset();
  saver_.reset();
  trainer_.reset();
  model_.reset();
}

// The model is safe by now: whatever goes wrong with its pictures is a warning.
void Run::draw() {
  try {
    std::unique_ptr<ModelState> copy;
    const plan::Placement& placement = trainer_->program().placement;
    const bool resident = placement.params_part() == plan::Part::kWhole &&
                          placement.layout.degree(plan::Axis::kPipeline) == 1 &&
                          placement.tensor_ranks() == 1;
    if (!resident) {
      release();
      const auto blocks = request_.extensions ? request_.extensions->blocks : std::vector<nn::BlockKind>();
      copy = std::make_unique<ModelState>(models::merged_network(bench_.spec), std::vector<plan::StateSpec>(),
                                          bench_.rank.seed, blocks);
      load_parameters(folder_->model(), *copy);
    }
    PictureRequest request{resident ? *model_ : *copy, *bench_.dataset, bench_.rank, run_folder_,
                           bench_.config.training.local_batch_size};
    request.documents_end = bench_.config.data.document_tokens != "none";
    for (const std::string& name : draw_pictures(request)) sinks_->artifact(name, folder_->file(name));
  } catch (const std::exception& error) {
    log_warning(fmt::format("no pictures of the model: {}", error.what()));
  }
}

}  // namespace furrow::train
