// A trained model as an artefact: the one thing that everything downstream reads.
#include <fmt/format.h>

#include "furrow/base/version.h"
#include "furrow/storage/artefact.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/run_torch.h"

namespace furrow::train {
namespace {

// The lines of [model] in a resolved config.
std::string model_table(const config::Config& config) {
  const std::string text = config::to_toml(config);
  const size_t begin = text.find('\n', text.find("[model]")) + 1;
  const size_t end = text.find("\n[", begin);
  return text.substr(begin, end == std::string::npos ? end : end + 1 - begin);
}

}  // namespace

storage::Artefact Run::description() const {
  storage::Artefact artefact;
  const plan::ModelSpec& spec = bench_.spec;
  artefact.architecture = spec.architecture;
  artefact.model = model_table(bench_.config);
  const plan::TensorSpec& input = spec.units.front().input;
  const plan::TensorSpec& output = spec.units.back().output;
  artefact.inputs = {{"input", input.dtype, input.shape}};
  artefact.outputs = {{"logits", output.dtype, output.shape}};
  artefact.preprocessing = bench_.dataset->preprocessing;
  artefact.lineage = {{"run", run_name()},
                      {"step", fmt::format("{}", state_.has_best ? state_.best_step : state_.step)},
                      {"furrow_version", std::string(furrow_version())},
                      {"seed", fmt::format("{}", bench_.rank.seed)}};
  return artefact;
}

// Unit by unit, so that rank 0 needs the memory of the largest and not of the whole model.
void Run::export_model() {
  const int units = static_cast<int>(bench_.spec.units.size());
  if (!first()) {
    for (int u = 0; u < units; ++u) whole_unit(u);
    return;
  }
  std::vector<storage::TensorInfo> tensors;
  for (const plan::Unit& unit : bench_.spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (!parameter.tied()) tensors.push_back({parameter.name, DType::kF32, parameter.shape});
    }
    for (const plan::Statistic& statistic : unit.statistics)
      tensors.push_back({statistic.name, statistic.dtype(), statistic.shape});
  }
  storage::write_artefact(folder_->model(), description(), std::move(tensors),
                          [&](storage::SafetensorsWriter& writer) {
                            for (int u = 0; u < units; ++u) {
                              for (const NamedTensor& each : model_->tensors_of(u, whole_unit(u)))
                                writer.write(each.name, tensor::to_array(each.view));
                            }
                          });
}

}  // namespace furrow::train
