#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/models/teacher.h"
#include "furrow/plan/optimizer_spec.h"
#include "furrow/storage/artefact.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/adapters_torch.h"
#include "furrow/train/initial_weights_torch.h"
#include "furrow/train/named_range_torch.h"

namespace furrow::train {
namespace {

using ReadRange = ModelState::ReadRange;

// Masters, then what blocks read.  A teacher is what it is.
void load_with(ModelState& model, const ReadRange& wanted) {
  const ReadRange read = [&wanted](const NamedRange& range) {
    if (!models::is_teachers(range.name)) wanted(range);
  };
  for (const NamedRange& range : model.model_ranges(model.units())) read(range);
  model.round_trained(model.units(), read);
  model.round_frozen(model.units(), read);
}

// Models do without adapters.
bool may_lack(const NamedRange& range) { return range.parameter != nullptr && range.parameter->adapter; }

// `range` from the tensor of that name.
void copy_from(const storage::SafetensorsFile& file, const std::string& name, const NamedRange& range) {
  const DType dtype = tensor::dtype_of(range.elements.scalar_type());
  copy_range(file.expect(name, dtype, plan::whole_shape(range.shape, range.place)), range);
}

// Weights that are tied here must not be two there.
void check_ties(const storage::SafetensorsFile& file, const plan::ModelSpec& spec) {
  for (const plan::Unit& unit : spec.units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (!parameter.tied() || parameter.borrowed || file.find(parameter.name) == nullptr) continue;
      throw Error(ErrorCode::kFailedPrecondition,
                  fmt::format("{} has {} and {}, which are one here: set [model] tie_embeddings = false",
                              file.path(), parameter.tied_to, parameter.name));
    }
  }
}

ReadRange artefact_at(const std::string& path, const ModelState& model) {
  storage::read_artefact(path);
  const auto file = std::make_shared<const storage::SafetensorsFile>(storage::open_parameters(path));
  check_ties(*file, model.spec());
  return [file, &model](const NamedRange& range) {
    if (may_lack(range) && file->find(range.name) == nullptr) return model.initialise(range);
    copy_from(*file, range.name, range);
  };
}

// Frozen parameters have no average: they are their own.
ReadRange weights_of(storage::CheckpointReader opened, const ModelState& model, bool average) {
  const auto reader = std::make_shared<const storage::CheckpointReader>(std::move(opened));
  return [reader, &model, average](const NamedRange& range) {
    if (may_lack(range) && reader->find(range.name) == nullptr) return model.initialise(range);
    const std::string averaged = fmt::format("optimizer.{}/{}", plan::kAverageState, range.name);
    NamedRange from = range;
    if (average && reader->find(averaged) != nullptr) from.name = averaged;
    read_range(*reader, from);
  };
}

ReadRange weights_at(const std::string& path, const ModelState& model, bool average) {
  if (std::filesystem::exists(path + "/model.toml")) return artefact_at(path, model);
  if (std::filesystem::exists(path + "/manifest.json"))
    return weights_of(storage::CheckpointReader::open(path), model, average);
  auto reader = storage::newest_valid(path);
  if (!reader) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("{} holds neither a model (model.toml) nor a checkpoint: give a run's model/, its "
                    "checkpoints/ or one step of them",
                    path));
  }
  return weights_of(std::move(*reader), model, average);
}

// Statistics stay as they start.
ReadRange initial_values(const ModelState& model) {
  return [&model](const NamedRange& range) {
    if (range.parameter != nullptr) model.initialise(range);
  };
}

}  // namespace

void load_parameters(const std::string& path, ModelState& model, bool average) {
  load_with(model, weights_at(path, model, average));
}

void load_teacher(const std::string& path, ModelState& model) {
  storage::read_artefact(path);
  const storage::SafetensorsFile file = storage::open_parameters(path);
  const auto read = [&](const NamedRange& range) {
    if (models::is_teachers(range.name))
      copy_from(file, range.name.substr(models::kTeacherPrefix.size()), range);
  };
  for (const NamedRange& range : model.model_ranges(model.units())) read(range);
  model.round_frozen(model.units(), read);
}

void load_initial(const config::Config& config, ModelState& model) {
  const std::string &path = config.checkpoint.initial_load_path, &adapters = config.lora.adapter_path;
  if (path.empty() && adapters.empty()) return;
  const ReadRange weights = path.empty() ? initial_values(model) : weights_at(path, model, /*average=*/false);
  if (adapters.empty()) return load_with(model, weights);
  const AdapterFile file(adapters, config.lora, model.spec());
  load_with(model, [&](const NamedRange& range) {
    if (file.has(range)) return file.read(range);
    weights(range);
  });
}

}  // namespace furrow::train
