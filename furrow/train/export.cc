// A trained model as an artefact: the one thing that everything downstream reads.
#include <fmt/format.h>

#include "furrow/base/version.h"
#include "furrow/storage/artefact.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/adapters_torch.h"
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

void Run::export_model() {
  const std::vector<UnitState> whole = whole_parameters();
  if (!first()) return;
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
  const std::vector<NamedTensor> parameters = model_->parameters_of(whole);
  const std::vector<NamedTensor> adapters = adapters_of(spec, parameters);
  if (!adapters.empty()) export_adapters(folder_->path() + "/adapter", bench_.config, adapters);
  const std::vector<NamedTensor> merged = merge_adapters(spec, parameters);
  std::vector<storage::NamedArray> arrays;
  for (const NamedTensor& parameter : merged)
    arrays.push_back({parameter.name, tensor::to_array(parameter.view)});
  storage::write_artefact(folder_->model(), std::move(artefact), arrays);
}

}  // namespace furrow::train
