#include <ATen/ATen.h>
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <set>

#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/storage/safetensors.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/adapters_torch.h"

namespace furrow::train {
namespace {

std::set<std::string> adapter_names(const plan::ModelSpec& spec) {
  std::set<std::string> names;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Adapter& adapter : unit.adapters) {
      names.insert(unit.parameters[adapter.a].name);
      names.insert(unit.parameters[adapter.b].name);
    }
  }
  return names;
}

// The last words of the layers' names, as PEFT lists its targets.
std::string target_modules(const std::vector<NamedTensor>& adapters) {
  std::set<std::string> modules;
  for (const NamedTensor& adapter : adapters) {
    const std::string layer = adapter.name.substr(0, adapter.name.find(".lora_"));
    modules.insert(layer.substr(layer.rfind('.') + 1));
  }
  std::string list;
  for (const std::string& module : modules) list += (list.empty() ? "" : ", ") + json_quote(module);
  return list;
}

}  // namespace

std::vector<NamedTensor> adapters_of(const plan::ModelSpec& spec,
                                     const std::vector<NamedTensor>& parameters) {
  const std::set<std::string> names = adapter_names(spec);
  std::vector<NamedTensor> adapters;
  for (const NamedTensor& parameter : parameters) {
    if (names.contains(parameter.name)) adapters.push_back(parameter);
  }
  return adapters;
}

std::vector<NamedTensor> merge_adapters(const plan::ModelSpec& spec,
                                        const std::vector<NamedTensor>& parameters) {
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& parameter : parameters) by_name[parameter.name] = parameter.view;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Adapter& adapter : unit.adapters) {
      const auto of = [&](int index) { return by_name.at(unit.parameters[index].name).to(at::kDouble); };
      at::Tensor& weight = by_name.at(unit.parameters[adapter.weight].name);
      weight = (weight.to(at::kDouble) + adapter.scale * of(adapter.b).mm(of(adapter.a))).to(at::kFloat);
    }
  }
  const std::set<std::string> names = adapter_names(spec);
  std::vector<NamedTensor> merged;
  for (const NamedTensor& parameter : parameters) {
    if (!names.contains(parameter.name)) merged.push_back({parameter.name, by_name.at(parameter.name)});
  }
  return merged;
}

void export_adapters(const std::string& folder, const config::Config& config,
                     const std::vector<NamedTensor>& adapters) {
  std::filesystem::create_directories(folder);
  std::vector<storage::NamedArray> arrays;
  for (const NamedTensor& adapter : adapters)
    arrays.push_back({"base_model.model." + adapter.name, tensor::to_array(adapter.view)});
  storage::write_safetensors(folder + "/adapter_model.safetensors", arrays, {{"format", "pt"}});
  const config::Lora& lora = config.lora;
  write_file_atomic(
      folder + "/adapter_config.json",
      fmt::format("{{\"peft_type\": \"LORA\", \"r\": {}, \"lora_alpha\": {}, \"lora_dropout\": {}, "
                  "\"bias\": \"none\", \"fan_in_fan_out\": false, \"base_model_name_or_path\": {}, "
                  "\"target_modules\": [{}]}}\n",
                  lora.rank, format_double(lora.alpha), format_double(lora.dropout),
                  json_quote(config.checkpoint.initial_load_path), target_modules(adapters)));
}

}  // namespace furrow::train
