#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <functional>
#include <thread>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/storage/artefact.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/checkpointer_torch.h"
#include "furrow/train/library_build.h"

namespace furrow::train {
namespace {

constexpr const char* kBestPrefix = "best/";

std::vector<storage::NamedArray> arrays_of(const std::vector<NamedTensor>& tensors,
                                           const std::string& prefix = "") {
  std::vector<storage::NamedArray> arrays;
  for (const NamedTensor& tensor : tensors)
    arrays.push_back({prefix + tensor.name, tensor::to_array(tensor.view)});
  return arrays;
}

// One save: everything it writes, by value or in buffers that nobody writes to meanwhile.
struct Save {
  std::string folder;
  int64_t keep_latest_k = 0;
  storage::CheckpointInfo info;
  std::vector<NamedTensor> parameters, states, best;

  void write() const {
    storage::CheckpointWriter writer(folder, info.step);
    writer.write("model.safetensors", arrays_of(parameters));
    if (!states.empty()) writer.write("optimizer.safetensors", arrays_of(states));
    if (!best.empty()) writer.write("best.safetensors", arrays_of(best, kBestPrefix));
    writer.commit(info);
    storage::prune(folder, keep_latest_k);
  }
};

void read_all(const storage::CheckpointReader& reader, const std::vector<NamedTensor>& tensors,
              const std::string& prefix = "") {
  for (const NamedTensor& tensor : tensors) reader.read(prefix + tensor.name, tensor::to_array(tensor.view));
}

storage::CheckpointReader open_step(const std::string& folder, int64_t step) {
  storage::CheckpointReader reader =
      storage::CheckpointReader::open(folder + "/" + storage::step_folder_name(step));
  reader.verify();
  return reader;
}

void warn_other_machine(const storage::Manifest& manifest, int threads) {
  auto warn = [](const std::string& what, const std::string& then, const std::string& now) {
    if (then == now) return;
    log_warning(fmt::format("the checkpoint was written with {} {}, this is {}: the bits may differ", what,
                            then, now));
  };
  warn("instruction set", manifest.instruction_set, instruction_set());
  warn("library build", manifest.library_build, library_build());
  warn("threads", fmt::format("{}", manifest.threads), fmt::format("{}", threads));
}

}  // namespace

struct Checkpointer::Impl {
  config::Config config;
  std::string folder;
  int threads;
  std::jthread writer;
  std::exception_ptr failure;

  void check_recipe(const storage::Manifest& manifest) const {
    const auto differences = config::recipe_difference(manifest.recipe, config::recipe_of(config));
    if (differences.empty()) return;
    std::string list;
    for (const std::string& difference : differences) list += "\n  " + difference;
    if (config.debug.deterministic == "strict") {
      throw Error(ErrorCode::kFailedPrecondition,
                  "[debug] deterministic = \"strict\" refuses another recipe than the checkpoint's:" + list);
    }
    log_warning("the recipe is not the checkpoint's; the result will not be that of an uninterrupted run:" +
                list);
  }
};

Checkpointer::Checkpointer(const config::Config& config, std::string folder, int threads)
    : impl_(std::make_unique<Impl>()) {
  impl_->config = config;
  impl_->folder = std::move(folder);
  impl_->threads = threads;
}

Checkpointer::~Checkpointer() {
  try {
    wait();
  } catch (const std::exception& error) {
    log(LogLevel::kError, std::string("saving a checkpoint: ") + error.what());
  }
}

bool Checkpointer::async() const { return impl_->config.checkpoint.async_mode == "async"; }

void Checkpointer::wait() {
  if (impl_->writer.joinable()) impl_->writer.join();
  if (impl_->failure) std::rethrow_exception(std::exchange(impl_->failure, nullptr));
}

void Checkpointer::save(const ModelState& model, const RunState& state, std::vector<UnitState> snapshots,
                        std::vector<UnitState> best) {
  wait();
  auto save = std::make_shared<Save>();
  save->folder = impl_->folder;
  save->keep_latest_k = impl_->config.checkpoint.keep_latest_k;
  save->parameters = model.parameters_of(snapshots);
  save->states = model.optimizer_states_of(snapshots);
  if (!best.empty()) save->best = model.parameters_of(best);
  save->info.step = state.step;
  save->info.data_position = state.position;
  save->info.seed = static_cast<uint64_t>(impl_->config.debug.seed);
  save->info.threads = impl_->threads;
  save->info.instruction_set = instruction_set();
  save->info.library_build = library_build();
  save->info.config = config::to_toml(impl_->config);
  save->info.state = to_text(state);
  save->info.recipe = config::recipe_of(impl_->config);
  auto write = [this, save] {
    try {
      save->write();
    } catch (Error& error) {
      impl_->failure =
          std::make_exception_ptr(error.with_context(fmt::format("saving step {}", save->info.step)));
    } catch (...) {
      impl_->failure = std::current_exception();
    }
  };
  if (async()) {
    impl_->writer = std::jthread(write);
  } else {
    write();
    wait();
  }
}

std::optional<Checkpointer::Restored> Checkpointer::restore(ModelState& model) const {
  const int64_t load_step = impl_->config.checkpoint.load_step;
  std::optional<storage::CheckpointReader> reader;
  if (load_step >= 0) {
    reader = open_step(impl_->folder, load_step);
  } else {
    std::vector<storage::DamagedCheckpoint> damaged;
    reader = storage::newest_valid(impl_->folder, &damaged);
    for (const auto& d : damaged)
      log_warning(fmt::format("passing over damaged checkpoint {}: {}", d.folder, d.reason));
    if (!reader && !damaged.empty()) {
      throw Error(ErrorCode::kDataLoss, fmt::format("every checkpoint in {} is damaged", impl_->folder));
    }
  }
  if (!reader) return std::nullopt;
  impl_->check_recipe(reader->manifest());
  warn_other_machine(reader->manifest(), impl_->threads);
  Restored restored;
  restored.state = parse_run_state(reader->manifest().state);
  read_all(*reader, model.parameters());
  read_all(*reader, model.optimizer_states());
  if (restored.state.has_best) {
    restored.best = model.snapshot_parameters();
    read_all(*reader, model.parameters_of(restored.best), kBestPrefix);
  }
  return restored;
}

void load_parameters(const std::string& path, ModelState& model) {
  const std::vector<NamedTensor> parameters = model.parameters();
  if (std::filesystem::exists(path + "/model.toml")) {
    storage::read_artefact(path);
    const storage::SafetensorsFile file = storage::open_parameters(path);
    for (const NamedTensor& parameter : parameters)
      file.read(parameter.name, tensor::to_array(parameter.view));
    return;
  }
  if (std::filesystem::exists(path + "/manifest.json")) {
    read_all(storage::CheckpointReader::open(path), parameters);
    return;
  }
  const auto reader = storage::newest_valid(path);
  if (!reader) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("{} holds neither a model (model.toml) nor a checkpoint: give a run's model/, its "
                    "checkpoints/ or one step of them",
                    path));
  }
  read_all(*reader, parameters);
}

}  // namespace furrow::train
