#include "apps/furrow/foreign_models.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "apps/furrow/foreign_tokenizers.h"
#include "apps/furrow/hugging_face_files.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/half.h"
#include "furrow/base/text.h"
#include "furrow/base/version.h"
#include "furrow/config/config.h"
#include "furrow/models/architectures.h"
#include "furrow/models/hugging_face.h"
#include "furrow/models/llama2c.h"
#include "furrow/storage/artefact.h"

namespace furrow::app {
namespace {

using models::ForeignModel;
using models::HuggingFaceModel;
using models::NamedParameter;

plan::ModelSpec spec_of(const ForeignModel& model) {
  return models::describe(model.model, {{DType::kI64, {-1, model.context}}, model.vocabulary});
}

// ----- arrays

constexpr const char* kStored = "imported_dtype";  // in the lineage of an artefact

template <class Fn>
void widen(std::span<const std::byte> from, std::span<float> to, const Fn& fn) {
  for (size_t i = 0; i < to.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, from.data() + 2 * i, sizeof(bits));
    to[i] = fn(bits);
  }
}

void check_dtype(const storage::TensorInfo& tensor) {
  if (tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBF16) return;
  throw Error(ErrorCode::kUnimplemented,
              fmt::format("tensor {} is {}: parameters are float32, float16 or bfloat16", tensor.name,
                          to_string(tensor.dtype)));
}

// A copy; the file's own pages are let go.
Array as_floats(const storage::SafetensorsFile& file, const storage::TensorInfo& tensor) {
  Array array(DType::kF32, tensor.shape);
  const std::span<const std::byte> bytes = file.bytes(tensor);
  if (tensor.dtype == DType::kF16) {
    widen(bytes, array.as<float>(), f16_to_float);
  } else if (tensor.dtype == DType::kBF16) {
    widen(bytes, array.as<float>(), bf16_to_float);
  } else {
    std::ranges::copy(bytes, array.bytes().begin());
  }
  file.release(tensor);
  return array;
}

// Of 16 bits; `name` for the message.
Array narrowed(const Array& array, DType dtype, const std::string& name) {
  Array out(dtype, array.shape());
  const std::span<const float> from = array.as<float>();
  std::byte* to = out.bytes().data();
  for (const float value : from) {
    const uint16_t bits = dtype == DType::kF16 ? float_to_f16(value) : float_to_bf16(value);
    if (std::isfinite(value) && dtype == DType::kF16 && std::isinf(f16_to_float(bits))) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} has a value of {}, which float16 does not reach: export with --dtype "
                              "bfloat16 or float32",
                              name, value));
    }
    std::memcpy(to, &bits, sizeof(bits));
    to += sizeof(bits);
  }
  return out;
}

Array transposed(const Array& array) {
  const int64_t rows = array.shape()[0], columns = array.shape()[1];
  Array out(DType::kF32, {columns, rows});
  const std::span<const float> from = array.as<float>();
  const std::span<float> to = out.as<float>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      to[static_cast<size_t>(j * rows + i)] = from[static_cast<size_t>(i * columns + j)];
  }
  return out;
}

// ----- reading Hugging Face's folders

// The tensors of all files of a folder by name.
class Tensors {
 public:
  explicit Tensors(const std::string& folder) {
    const std::string index = folder + "/model.safetensors.index.json";
    std::set<std::string> names = {"model.safetensors"};
    if (path_exists(index)) {
      try {
        names = parse_hugging_face_index(read_file(index, kMostJson));
      } catch (const Error& error) {
        throw error.with_context(index);
      }
    } else {
      refuse_other_formats(folder);
    }
    for (const std::string& name : names)
      files_.push_back(std::make_shared<const storage::SafetensorsFile>(folder + "/" + name));
  }

  // The one called `name`, or the name without `prefix`, as `parameter`; not the same one twice.
  NamedParameter take(const std::string& parameter, const models::HuggingFaceTensor& wanted,
                      std::string_view prefix) {
    for (const std::string_view name : {std::string_view(wanted.name), without(wanted.name, prefix)}) {
      for (const auto& file : files_) {
        const storage::TensorInfo* tensor = file->find(name);
        if (tensor == nullptr) continue;
        check_dtype(*tensor);
        taken_.insert(tensor->name);
        stored_.insert(tensor->dtype);
        const bool turned = wanted.transposed && tensor->shape.size() == 2;
        Shape shape = tensor->shape;
        if (turned) std::swap(shape[0], shape[1]);
        return {parameter, shape, [file, tensor, turned] {
                  Array array = as_floats(*file, *tensor);
                  return turned ? transposed(array) : std::move(array);
                }};
      }
    }
    throw Error(ErrorCode::kNotFound,
                fmt::format("no tensor {} in {}: is config.json of these files, and are they all here? Fetch "
                            "the folder again",
                            wanted.name, files_.front()->path()));
  }

  // The type of all that was taken, float32 where they differ.
  DType stored() const { return stored_.size() == 1 ? *stored_.begin() : DType::kF32; }

  // Error{unimplemented} when something is left that is no buffer.
  void require_nothing_left() const {
    for (const auto& file : files_) {
      for (const storage::TensorInfo& tensor : file->tensors()) {
        if (taken_.contains(tensor.name) || models::is_hugging_face_buffer(tensor.name)) continue;
        throw Error(
            ErrorCode::kUnimplemented,
            fmt::format("{}: tensor {} belongs to nothing that this architecture has: import the plain "
                        "model, before heads or adapters were added to it",
                        file->path(), tensor.name));
      }
    }
  }

  static constexpr uint64_t kMostJson = 64 << 20;

 private:
  // A folder whose parameters are there, but as something else than safetensors.
  static void refuse_other_formats(const std::string& folder) {
    if (path_exists(folder + "/model.safetensors")) return;
    for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth",
                             "tf_model.h5", "flax_model.msgpack"}) {
      if (!path_exists(folder + "/" + name)) continue;
      throw Error(
          ErrorCode::kUnimplemented,
          fmt::format("{} has its parameters in {}, and model.safetensors is read: save the model with "
                      "transformers' save_pretrained",
                      folder, name));
    }
  }
  static std::string_view without(std::string_view name, std::string_view prefix) {
    return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
  }
  std::vector<std::shared_ptr<const storage::SafetensorsFile>> files_;
  std::set<std::string> taken_;
  std::set<DType> stored_;
};

// ----- artefacts

std::string model_table(const config::Model& model) {
  config::Config config;
  config.model = model;
  return config::section_toml(config, "model");
}

// The [model] table of an artefact whose inputs are `context` tokens.
config::Model parse_model(const std::string& table, int64_t context) {
  return config::parse(fmt::format("[training]\nsteps = 1\ndataset = \"text\"\nseq_len = {}\n[model]\n{}",
                                   context, table),
                       "model.toml")
      .model;
}

void write_key(const models::HuggingFaceKey& key, const config::Model& model, JsonWriter* json) {
  if (key.integer != nullptr) json->field(key.key, model.*key.integer);
  if (key.real != nullptr) json->field(key.key, model.*key.real);
  if (key.flag != nullptr) json->field(key.key, model.*key.flag);
}

// What only llama has, as transformers 4 and 5 read it.
void write_positions(const config::Model& model, JsonWriter* json) {
  if (model.head_dim > 0) json->field("head_dim", model.head_dim);
  if (model.rope_scaling == "none") return;
  for (const models::HuggingFaceRope& rope : models::hugging_face_ropes()) {
    if (rope.scaling != model.rope_scaling) continue;
    json->key("rope_scaling").begin_object().field("rope_type", rope.type);
    for (const models::HuggingFaceKey& key : rope.keys) write_key(key, model, json);
    json->end_object();
  }
}

void write_config(const HuggingFaceModel& row, const ForeignModel& model, DType dtype,
                  const std::string& path) {
  JsonWriter json(2);
  json.begin_object().field("model_type", row.model_type);
  json.key("architectures").begin_array().value(row.class_name).end_array();
  json.field("vocab_size", model.vocabulary);
  for (const models::HuggingFaceKey& key : row.keys) write_key(key, model.model, &json);
  if (row.architecture == "gpt") {
    json.field("activation_function", model.model.gelu == "tanh" ? "gelu_new" : "gelu");
    for (const char* key : {"embd_pdrop", "attn_pdrop", "resid_pdrop"}) json.field(key, model.model.dropout);
  } else {
    json.field(row.context_key, model.context);
    write_positions(model.model, &json);
  }
  for (const models::HuggingFaceFact& fact : row.facts) json.key(fact.key).raw(fact.value);
  json.field("torch_dtype", to_string(dtype)).end_object();
  write_file_atomic(path, json.text() + "\n");
}

// Of a llama whose [model] leaves it to its default.
int64_t ffn_width_of(const plan::ModelSpec& spec) {
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.name.ends_with(".mlp.gate_proj.weight")) return parameter.shape[0];
    }
  }
  return 0;
}

// The artefact's model with every size written out, as config.json has them.
ForeignModel open_artefact(const std::string& folder) {
  const storage::Artefact artefact = storage::read_artefact(folder);
  ForeignModel model;
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const auto stored = artefact.lineage.find(kStored);
    if (stored != artefact.lineage.end() && stored->second == to_string(dtype)) model.stored = dtype;
  }
  if (artefact.inputs.size() != 1 || artefact.inputs[0].shape.size() != 2 || artefact.outputs.size() != 1 ||
      artefact.outputs[0].shape.empty()) {
    throw Error(ErrorCode::kUnimplemented, fmt::format("{} is no language model: gpt and llama are", folder));
  }
  model.context = artefact.inputs[0].shape[1];
  model.vocabulary = artefact.outputs[0].shape.back();
  model.model = parse_model(artefact.model, model.context);
  if (model.model.context == 0) model.model.context = model.context;
  if (model.model.kv_heads == 0) model.model.kv_heads = model.model.heads;
  if (model.model.ffn_width == 0) model.model.ffn_width = ffn_width_of(spec_of(model));
  return model;
}

}  // namespace

ForeignModel read_hugging_face(const std::string& folder) {
  const std::string path = folder + "/config.json";
  ForeignModel model;
  try {
    model = parse_hugging_face_config(read_file(path, Tensors::kMostJson));
  } catch (const Error& error) {
    throw error.with_context(path);
  }
  const HuggingFaceModel& row = *models::find_by_model(model.model);
  Tensors tensors(folder);
  for (const plan::Unit& unit : spec_of(model).units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied()) continue;
      model.parameters.push_back(
          tensors.take(parameter.name, models::hugging_face_tensor(row, parameter.name), row.prefix));
    }
  }
  tensors.require_nothing_left();
  model.stored = tensors.stored();
  return model;
}

ForeignModel read_llama2c(const std::string& file) {
  const auto mapped = std::make_shared<const MappedFile>(file);
  try {
    ForeignModel model = models::parse_llama2c(mapped->bytes());
    for (NamedParameter& parameter : model.parameters)
      parameter.read = [mapped, read = std::move(parameter.read)] { return read(); };
    return model;
  } catch (const Error& error) {
    throw error.with_context(file);
  }
}

void write_as_artefact(const ForeignModel& model, const std::string& source, const std::string& folder,
                       const preprocess::State& tokenizer) {
  const plan::ModelSpec spec = spec_of(model);
  std::map<std::string, const NamedParameter*> by_name;
  for (const NamedParameter& parameter : model.parameters) by_name[parameter.name] = &parameter;
  std::vector<storage::TensorInfo> tensors;
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied()) continue;
      const auto found = by_name.find(parameter.name);
      FURROW_CHECK(found != by_name.end(), parameter.name + " was not read");
      if (found->second->shape != parameter.shape) {
        throw Error(ErrorCode::kFailedPrecondition,
                    fmt::format("{} is {}, but the sizes of the model ask for {}", parameter.name,
                                to_string(found->second->shape), to_string(parameter.shape)));
      }
      tensors.push_back({.name = parameter.name, .dtype = DType::kF32, .shape = parameter.shape});
    }
  }
  storage::Artefact artefact;
  artefact.architecture = spec.architecture;
  artefact.model = model_table(model.model);
  const plan::TensorSpec &input = spec.units.front().input, &output = spec.units.back().output;
  artefact.inputs = {{"input", input.dtype, input.shape}};
  artefact.outputs = {{"logits", output.dtype, output.shape}};
  artefact.preprocessing = tokenizer;
  artefact.preprocessing["classes"] = fmt::format("{}", model.vocabulary);
  artefact.lineage = {{"imported_from", source},
                      {kStored, std::string(to_string(model.stored))},
                      {"furrow_version", std::string(furrow_version())}};
  storage::write_artefact(folder, std::move(artefact), tensors, [&](storage::SafetensorsWriter& writer) {
    for (const storage::TensorInfo& tensor : tensors)
      writer.write(tensor.name, by_name.at(tensor.name)->read().view());
  });
}

namespace {

// The parameters one by one, under their names and in their forms there.
void write_tensors(const HuggingFaceModel& row, const ForeignModel& model, DType dtype,
                   const storage::SafetensorsFile& file, const std::string& path) {
  struct Tensor {
    std::string ours;
    models::HuggingFaceTensor theirs;
  };
  std::vector<Tensor> tensors;
  std::vector<storage::TensorInfo> announced;
  for (const plan::Unit& unit : spec_of(model).units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied()) continue;
      file.expect(parameter.name, DType::kF32, parameter.shape);
      tensors.push_back({parameter.name, models::hugging_face_tensor(row, parameter.name)});
      const bool turned = tensors.back().theirs.transposed;
      announced.push_back({.name = tensors.back().theirs.name, .dtype = dtype, .shape = parameter.shape});
      if (turned) std::swap(announced.back().shape[0], announced.back().shape[1]);
    }
  }
  storage::SafetensorsWriter writer(path, std::move(announced), {{"format", "pt"}});
  for (const Tensor& tensor : tensors) {
    Array array = as_floats(file, file.at(tensor.ours));
    if (tensor.theirs.transposed) array = transposed(array);
    if (dtype != DType::kF32) array = narrowed(array, dtype, tensor.ours);
    writer.write(tensor.theirs.name, array.view());
  }
  writer.commit();
}

}  // namespace

bool write_hugging_face(const std::string& artefact, const std::string& folder, std::optional<DType> wanted) {
  const ForeignModel model = open_artefact(artefact);
  const DType dtype = wanted.value_or(model.stored);
  const HuggingFaceModel* row = models::find_by_model(model.model);
  if (row == nullptr && model.model.name == "gpt")
    throw Error(ErrorCode::kUnimplemented, "Hugging Face's GPT-2 has biases: train with [model] bias = true");
  if (row == nullptr) {
    throw Error(ErrorCode::kUnimplemented,
                fmt::format("{} is a {}: Hugging Face has gpt and llama", artefact, model.model.name));
  }
  const storage::SafetensorsFile file = storage::open_parameters(artefact);
  bool has_tokenizer = false;
  const std::string temporary = fmt::format("{}.tmp-{}", folder, ::getpid());  // appears whole or not at all
  try {
    make_directories(temporary);
    write_tensors(*row, model, dtype, file, temporary + "/model.safetensors");
    write_config(*row, model, dtype, temporary + "/config.json");
    has_tokenizer = write_tokenizer(storage::read_artefact(artefact).preprocessing, temporary);
    rename_durably(temporary, folder);
  } catch (const Error&) {
    remove_all(temporary);
    throw;
  }
  return has_tokenizer;
}

}  // namespace furrow::app
