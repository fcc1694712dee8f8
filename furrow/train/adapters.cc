#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/models/hugging_face.h"
#include "furrow/models/lora.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/adapters_torch.h"
#include "furrow/train/peft_config.h"

namespace furrow::train {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr uint64_t kMostJson = 1 << 20;

// Of a parameter under our name.
std::string peft_name(const std::string& architecture, const std::string& parameter) {
  const models::HuggingFaceModel* model = models::find_by_architecture(architecture);
  return std::string(kPrefix) +
         (model == nullptr ? parameter : models::hugging_face_tensor(*model, parameter).name);
}

// What PEFT calls the weight beside which an adapter stands; "" of one that lies otherwise there, which it
// does not keep.
std::string base_name(const std::string& architecture, const std::string& weight) {
  const models::HuggingFaceModel* model = models::find_by_architecture(architecture);
  if (model != nullptr && models::hugging_face_tensor(*model, weight).transposed) return "";
  std::string name = peft_name(architecture, weight);
  return name.insert(name.rfind('.'), ".base_layer");
}

// The layers' full names.  PEFT takes one for all that end with it, as patterns of [lora] target_modules do.
std::set<std::string> target_modules(const std::string& architecture,
                                     const std::vector<NamedTensor>& adapters) {
  std::set<std::string> modules;
  for (const NamedTensor& adapter : adapters) {
    const std::string name = peft_name(architecture, adapter.name).substr(kPrefix.size());
    modules.insert(name.substr(0, name.find(".lora_")));
  }
  return modules;
}

bool is_adapter(const plan::Unit& unit, const std::string& name) {
  for (const plan::Adapter& adapter : unit.adapters) {
    if (unit.parameters[adapter.a].name == name || unit.parameters[adapter.b].name == name) return true;
  }
  return false;
}

[[noreturn]] void refuse(const std::string& path, const std::string& message) {
  throw Error(ErrorCode::kFailedPrecondition, fmt::format("{}: {}", path, message));
}

}  // namespace

std::vector<NamedTensor> adapters_of(const plan::Unit& unit, const std::vector<NamedTensor>& own) {
  std::vector<NamedTensor> adapters;
  for (const NamedTensor& tensor : own) {
    if (is_adapter(unit, tensor.name)) adapters.push_back(tensor);
  }
  return adapters;
}

std::vector<NamedTensor> without_adapters(const plan::Unit& unit, const std::vector<NamedTensor>& own) {
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& tensor : own) by_name[tensor.name] = tensor.view;
  for (const plan::Adapter& adapter : unit.adapters) {
    if (unit.parameters[adapter.a].tied()) continue;  // it stands where its layer is
    const auto matrix = [&](int index) {
      return by_name.at(unit.parameters[index].name).to(at::kDouble).flatten(1);
    };
    at::Tensor& weight = by_name.at(unit.parameters[adapter.weight].name);
    const at::Tensor product = matrix(adapter.b).mm(matrix(adapter.a)) * adapter.scale;
    const at::Tensor delta = (adapter.table ? product.t() : product).reshape(weight.sizes());
    weight = (weight.to(at::kDouble) + delta).to(at::kFloat);
  }
  std::vector<NamedTensor> merged;
  for (const NamedTensor& tensor : own) {
    if (!is_adapter(unit, tensor.name)) merged.push_back({tensor.name, by_name.at(tensor.name)});
  }
  return merged;
}

TiedWeights::TiedWeights(const plan::ModelSpec& spec) {
  const plan::ModelSpec merged = models::merged_network(spec);
  for (size_t u = 0; u < spec.units.size(); ++u) {
    for (size_t i = 0; i < merged.units[u].parameters.size(); ++i) {
      const plan::Parameter& parameter = spec.units[u].parameters[i];
      if (parameter.tied() && !merged.units[u].parameters[i].tied())
        owners_[parameter.name] = parameter.tied_to;
    }
  }
}

std::vector<NamedTensor> TiedWeights::with_parted(const plan::Unit& unit, std::vector<NamedTensor> own) {
  for (const NamedTensor& each : own) {
    const auto is_owner = [&](const auto& tie) { return tie.second == each.name; };
    if (std::ranges::any_of(owners_, is_owner)) weights_[each.name] = each.view.clone();
  }
  for (const plan::Parameter& parameter : unit.parameters) {
    const auto tie = owners_.find(parameter.name);
    if (tie != owners_.end()) own.push_back({parameter.name, weights_.at(tie->second)});
  }
  return own;
}

void export_adapters(const std::string& folder, const plan::ModelSpec& spec, const config::Config& config,
                     const std::vector<NamedTensor>& adapters) {
  std::filesystem::create_directories(folder);
  std::vector<storage::NamedArray> arrays;
  for (const NamedTensor& adapter : adapters)
    arrays.push_back({peft_name(spec.architecture, adapter.name), tensor::to_array(adapter.view)});
  storage::write_safetensors(folder + "/adapter_model.safetensors", arrays, {{"format", "pt"}});
  JsonWriter json(2);
  json.begin_object().field("peft_type", "LORA");
  const bool known = models::find_by_architecture(spec.architecture) != nullptr;
  if (known) json.field("task_type", "CAUSAL_LM");
  json.field("r", config.lora.rank).field("lora_alpha", config.lora.alpha);
  json.field("lora_dropout", config.lora.dropout).field("bias", "none");
  json.field("fan_in_fan_out", spec.architecture == "gpt");  // transformers' GPT-2 keeps W as [in, out]
  json.field("base_model_name_or_path", config.checkpoint.initial_load_path);
  json.key("target_modules").begin_array();
  for (const std::string& module : target_modules(spec.architecture, adapters)) json.value(module);
  json.end_array().end_object();
  write_file_atomic(folder + "/adapter_config.json", json.text() + "\n");
}

AdapterFile::AdapterFile(const std::string& folder, const config::Lora& lora, const plan::ModelSpec& spec)
    : file_(folder + "/adapter_model.safetensors") {
  check_config(folder, lora);
  name_tensors(spec);
}

void AdapterFile::check_config(const std::string& folder, const config::Lora& lora) const {
  const std::string path = folder + "/adapter_config.json";
  const auto check = [&] {
    const auto [rank, alpha] = parse_peft_config(read_file(path, kMostJson));
    if (rank == static_cast<double>(lora.rank) && alpha == lora.alpha) return;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("r is {} and lora_alpha {}, but [lora] has rank {} and alpha {}: set those",
                            format_double(rank), format_double(alpha), lora.rank, format_double(lora.alpha)));
  };
  try {
    check();
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

void AdapterFile::name_tensor(const Shape& shape, const std::string& own, const std::string& name) {
  const storage::TensorInfo& tensor = file_.at(name);
  if (tensor.shape != shape) {
    refuse(file_.path(),
           fmt::format("{} is {}, but {} is {} here", name, to_string(tensor.shape), own, to_string(shape)));
  }
  names_.emplace(own, name);
}

void AdapterFile::name_tensors(const plan::ModelSpec& spec) {
  const auto whole = [&](const plan::Parameter& parameter) {
    return plan::whole_shape(parameter.shape, plan::place_of(spec, parameter, 0));
  };
  std::set<std::string> known;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (!parameter.adapter || parameter.tied()) continue;
      const std::string name = peft_name(spec.architecture, parameter.name);
      name_tensor(whole(parameter), parameter.name, name);
      known.insert(name);
    }
    for (const plan::Adapter& adapter : unit.adapters) {
      if (unit.parameters[static_cast<size_t>(adapter.a)].tied()) continue;
      const plan::Parameter& weight = unit.parameters[static_cast<size_t>(adapter.weight)];
      const std::string name = base_name(spec.architecture, weight.name);
      if (name.empty() || file_.find(name) == nullptr) continue;
      name_tensor(whole(weight), weight.tied() ? weight.tied_to : weight.name, name);
      known.insert(name);
    }
  }
  if (known.empty()) refuse(file_.path(), "the model has no adapters: set [lora] rank");
  for (const storage::TensorInfo& tensor : file_.tensors()) {
    if (!known.contains(tensor.name))
      refuse(file_.path(), fmt::format("{} belongs to no layer of [lora] target_modules", tensor.name));
  }
}

void AdapterFile::read(const NamedRange& range) const {
  const storage::TensorInfo& info = file_.at(names_.at(range.name));
  if (!plan::is_number(info.dtype))
    refuse(file_.path(), fmt::format("{} is {}, no floating point", info.name, to_string(info.dtype)));
  const size_t size = dtype_size(info.dtype);
  const int64_t end = range.begin + range.elements.numel();
  for (const plan::TensorRun& run : plan::runs_of(range.shape, range.place, range.begin, end)) {
    const at::Tensor numbers = at::empty({run.size}, tensor::scalar_type(info.dtype));
    std::memcpy(numbers.data_ptr(), file_.bytes(info).data() + static_cast<size_t>(run.whole) * size,
                static_cast<size_t>(run.size) * size);
    range.elements.narrow(0, run.begin - range.begin, run.size).copy_(numbers);
  }
}

}  // namespace furrow::train
