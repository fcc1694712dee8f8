#include <fmt/format.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <future>
#include <iterator>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/log.h"
#include "furrow/base/memory.h"
#include "furrow/base/process.h"
#include "furrow/models/precision.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/tensor/arithmetic.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/checkpointer_torch.h"
#include "furrow/train/library_build.h"
#include "furrow/train/named_range_torch.h"
#include "furrow/train/rank_texts.h"
#include "furrow/train/shared_folder.h"

namespace furrow::train {
namespace {

constexpr const char* kBestPrefix = "best/";

// One save: everything that this rank writes, by value or in buffers that nobody writes to meanwhile.
struct Save {
  std::string folder;  // of checkpoints
  std::string tag;     // of the working folder, where several ranks write into it
  std::string suffix;  // of files: "-rank-00003", likewise
  int64_t keep_latest_k = 0;
  storage::CheckpointInfo info;
  std::vector<NamedRange> parameters, states, best;
  std::unique_ptr<storage::CheckpointWriter> writer;  // of rank 0

  // Where the pieces go.
  std::string make_folder() {
    if (!tag.empty()) return storage::make_working_folder(folder, info.step, tag);
    writer = std::make_unique<storage::CheckpointWriter>(folder, info.step);
    return writer->working_folder();
  }

  std::vector<std::string> write() {
    const std::string working = make_folder();
    std::vector<std::string> lists;
    const auto write_one = [&](const std::string& name, const std::vector<NamedRange>& ranges,
                               const std::string& prefix) {
      if (ranges.empty()) return;
      std::vector<storage::CheckpointPiece> pieces;
      for (const NamedRange& range : ranges) {
        for (auto& piece : pieces_of(range, prefix)) pieces.push_back(std::move(piece));
      }
      lists.push_back(storage::write_pieces(working, name + suffix + ".safetensors", pieces));
    };
    write_one("model", parameters, "");
    write_one("optimizer", states, "");
    write_one("best", best, kBestPrefix);
    return lists;
  }

  void commit(const std::vector<std::string>& lists) {
    for (const std::string& list : lists) writer->adopt(list);
    writer->commit(info);
    storage::prune(folder, keep_latest_k);
  }
};

void read_ranges(const storage::CheckpointReader& reader, const std::vector<NamedRange>& ranges,
                 const std::string& prefix = "") {
  for (const NamedRange& range : ranges) read_range(reader, range, prefix);
}

// Another network, optimizer, average or other adapters keep what the checkpoint never had.
void check_has_all(const storage::CheckpointReader& reader, const std::vector<NamedRange>& ranges) {
  for (const NamedRange& range : ranges) {
    if (reader.find(range.name) != nullptr) continue;
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("checkpoint {} has no '{}': it is of another [model], [lora], [optimizer] or [ema]. "
                    "Resume with these as they were, or begin a new run from its weights: "
                    "checkpoint.initial_load_path",
                    reader.folder(), range.name));
  }
}

ModelState::ReadRange reader_of(const storage::CheckpointReader& reader, const std::string& prefix = "") {
  return [&reader, prefix](const NamedRange& range) { read_ranges(reader, {range}, prefix); };
}

void append(std::vector<NamedRange> more, std::vector<NamedRange>* ranges) {
  ranges->insert(ranges->end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

std::string instruction_set_of(const ModelState& model) {
  return tensor::instruction_set_of(models::lowest_precision(model.spec()));
}

void warn_other_machine(const storage::Manifest& manifest, const std::string& instructions, int threads) {
  auto warn = [](const std::string& what, const std::string& then, const std::string& now) {
    if (then == now) return;
    log_warning(fmt::format("the checkpoint was written with {} {}, this is {}: the bits may differ", what,
                            then, now));
  };
  warn("instruction set", manifest.instruction_set, instructions);
  warn("library build", manifest.library_build, library_build());
  warn("threads", fmt::format("{}", manifest.threads), fmt::format("{}", threads));
}

// Piece lists of one rank as one text; JSON has no line feed of its own here.
std::string join(const std::vector<std::string>& lists) {
  std::string text;
  for (const std::string& list : lists) text += list + '\f';
  return text;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lists;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\f', begin);
    lists.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lists;
}

}  // namespace

// A save goes through writing (every rank, in the background when asynchronous) and committing (rank 0,
// likewise). In a world of one the background thread does both.
struct Checkpointer::Impl {
  enum class Phase { kNone, kWriting, kCommitting };

  config::Config config;
  CheckpointPlace place;
  RankContext rank;
  std::string config_text;  // as every manifest has it
  config::Recipe recipe;
  std::string tag;    // of the working folders of this run's saves, where several ranks make them
  int64_t saves = 0;  // begun
  std::shared_ptr<Save> under_way;
  Phase phase = Phase::kNone;
  std::future<void> worker;        // its end waits for it
  std::vector<std::string> lists;  // what this rank wrote

  std::future<std::vector<at::DataPtr>> prepared;

  bool first() const { return rank.alone() || rank.rank == 0; }

  std::vector<plan::Slice> written(const ModelState& model) const {
    return place.written.empty() ? model.whole_slices() : place.written;
  }

  // In a world of one that waits for it the task runs here; else beside this thread, which may hear of
  // others.
  void run(std::function<void()> task) {
    const auto guarded = [step = under_way->info.step, task = std::move(task)] {
      try {
        task();
      } catch (const Error& error) {
        throw error.with_context(fmt::format("saving step {}", step));
      }
    };
    const bool here = rank.alone() && config.checkpoint.async_mode != "async";
    worker = std::async(here ? std::launch::deferred : std::launch::async, guarded);
    if (here) worker.wait();
  }

  // Within so long, or there is no task.
  bool ends(std::chrono::milliseconds time) const {
    return !worker.valid() || worker.wait_for(time) == std::future_status::ready;
  }

  void join_worker() {
    if (worker.valid()) worker.get();
  }

  // On every rank, however long it takes.
  void wait_for_workers(const std::string& label) const {
    wait_in_turns(rank.world(), label, [this] { return ends(kTurn); });
  }

  // Every rank can name the folder of a save, and no other save has had it: training waits for no disk.
  void agree_on_tags() {
    if (rank.alone()) return;
    tag = text_of_first(rank.world(), "checkpoint folders",
                        [] { return fmt::format("{:x}-{:x}", process_id(), system_clock().unix_ns()); });
    if (config.checkpoint.enable) require_shared_folder(rank, place.folder, tag);
  }

  void begin() {
    Save& save = *under_way;
    if (!rank.alone()) {
      save.tag = fmt::format("{}-{}", tag, saves++);
      save.suffix = fmt::format("-rank-{:05}", rank.rank);
      if (first())
        save.writer = std::make_unique<storage::CheckpointWriter>(save.folder, save.info.step, save.tag);
    }
    phase = Phase::kWriting;
    run([this, save = under_way] {
      lists = save->write();
      if (rank.alone()) save->commit(lists);
    });
  }

  // From writing to committing.  Throws what went wrong on any rank; the save is given up then.
  void collect() try {
    if (rank.alone()) {
      join_worker();
      return done();
    }
    const auto own = [this] {
      join_worker();
      return join(lists);
    };
    wait_for_workers("checkpoint pieces");
    std::vector<std::string> all;
    for (const std::string& text : texts_to_first(rank.world(), "checkpoint pieces", own)) {
      for (std::string& list : split(text)) all.push_back(std::move(list));
    }
    if (!first()) return done();
    phase = Phase::kCommitting;
    run([save = under_way, all = std::move(all)] { save->commit(all); });
  } catch (...) {
    if (worker.valid() && config.checkpoint.async_mode != "async") worker.wait();  // it reads the model
    done();
    throw;
  }

  void done() {
    phase = Phase::kNone;
    under_way.reset();
  }

  void check_recipe(const storage::Manifest& manifest) const {
    const auto differences = config::recipe_difference(manifest.recipe, recipe);
    if (differences.empty()) return;
    std::string list;
    for (const std::string& difference : differences) list += "\n  " + difference;
    if (config.debug.deterministic == "strict") {
      throw Error(ErrorCode::kFailedPrecondition,
                  "[debug] deterministic = \"strict\" refuses another recipe than the checkpoint's:" + list);
    }
    if (!first()) return;
    log_warning("the recipe is not the checkpoint's; the result will not be that of an uninterrupted run:" +
                list);
  }

  // What rank 0 makes of all the bytes of a checkpoint.
  std::string told_by_first(const std::function<std::string()>& make) const {
    const std::string label = "checkpoint to restore";
    std::future<std::string> made;
    if (first()) made = std::async(std::launch::async, make);
    wait_in_turns(rank.world(), label,
                  [&] { return !made.valid() || made.wait_for(kTurn) == std::future_status::ready; });
    return text_of_first(rank.world(), label, [&] { return made.get(); });
  }

  // The folder to restore from, every byte of it checked; "" when there is none.
  std::string choose() const {
    if (const int64_t step = config.checkpoint.load_step; step >= 0) {
      const std::string folder = place.folder + "/" + storage::step_folder_name(step);
      storage::CheckpointReader::open(folder).verify();
      return folder;
    }
    std::vector<storage::DamagedCheckpoint> damaged;
    const auto reader = storage::newest_valid(place.folder, &damaged);
    for (const auto& d : damaged)
      log_warning(fmt::format("passing over damaged checkpoint {}: {}", d.folder, d.reason));
    if (!reader && !damaged.empty()) {
      throw Error(ErrorCode::kDataLoss, fmt::format("every checkpoint in {} is damaged", place.folder));
    }
    return reader ? reader->folder() : "";
  }
};

Checkpointer::Checkpointer(const config::Config& config, CheckpointPlace place, const RankContext& rank)
    : impl_(std::make_unique<Impl>()) {
  impl_->config = config;
  impl_->place = std::move(place);
  impl_->rank = rank;
  impl_->config_text = config::to_toml(config);
  impl_->recipe = config::recipe_of(config);
  impl_->agree_on_tags();
}

Checkpointer::~Checkpointer() {
  try {
    impl_->join_worker();
  } catch (const std::exception& error) {
    log(LogLevel::kError, std::string("saving a checkpoint: ") + error.what());
  }
}

bool Checkpointer::async() const { return impl_->config.checkpoint.async_mode == "async"; }

bool Checkpointer::written() const {
  return impl_->phase != Impl::Phase::kWriting || impl_->ends(std::chrono::milliseconds(0));
}

void Checkpointer::advance() {
  if (impl_->phase == Impl::Phase::kWriting) impl_->collect();
}

std::vector<int64_t> Checkpointer::copy_bytes(const ModelState& model) const {
  std::vector<int64_t> bytes;
  const std::vector<plan::Slice> written = impl_->written(model);
  for (size_t u = 0; u < written.size(); ++u) {
    const ModelState::Taking taking{written[u], impl_->place.statistics, !async()};
    for (const int64_t size : model.snapshot_bytes(static_cast<int>(u), taking)) bytes.push_back(size);
  }
  return bytes;
}

void Checkpointer::prepare(const ModelState& model) {
  if (!async()) return;
  impl_->prepared = std::async(std::launch::async, [bytes = copy_bytes(model)] {
    const MemoryScope scope(MemoryKind::kCheckpoint);
    return tensor::written_blocks(bytes);
  });
}

void Checkpointer::finish() {
  advance();
  if (impl_->prepared.valid()) impl_->prepared.get();
  if (impl_->rank.alone()) return;
  const auto committed = [this] {
    impl_->join_worker();
    return std::string();
  };
  const auto save = std::exchange(impl_->under_way, nullptr);  // given up when an error comes
  impl_->phase = Impl::Phase::kNone;
  impl_->wait_for_workers("checkpoint commit");
  text_of_first(impl_->rank.world(), "checkpoint commit", committed);
}

void Checkpointer::save(const ModelState& model, const RunState& state, std::vector<UnitState> snapshots,
                        std::vector<UnitState> best) {
  finish();
  const std::vector<plan::Slice> written = impl_->written(model);
  auto save = std::make_shared<Save>();
  save->folder = impl_->place.folder;
  save->keep_latest_k = impl_->config.checkpoint.keep_latest_k;
  save->parameters = model.parameter_ranges(snapshots, written, written);
  save->states = model.state_ranges(snapshots, written, written);
  append(model.statistic_ranges(snapshots), &save->parameters);
  append(model.averaged_statistic_ranges(snapshots), &save->states);
  if (!best.empty()) save->best = model.parameter_ranges(best, model.params_slices(), written);
  if (impl_->place.statistics) append(model.statistic_ranges(best), &save->best);
  for (std::vector<NamedRange>* ranges : {&save->parameters, &save->states, &save->best}) {
    if (impl_->place.replicated) break;
    std::erase_if(*ranges, [](const NamedRange& range) { return !range.place.cuts(); });
  }
  save->info.step = state.step;
  save->info.data_position = state.position;
  save->info.seed = static_cast<uint64_t>(impl_->config.debug.seed);
  save->info.threads = impl_->rank.threads;
  save->info.instruction_set = instruction_set_of(model);
  save->info.library_build = library_build();
  save->info.config = impl_->config_text;
  save->info.state = to_text(state);
  save->info.recipe = impl_->recipe;
  impl_->under_way = std::move(save);
  impl_->begin();
  if (!async()) finish();
}

std::optional<Checkpointer::Restored> Checkpointer::restore(ModelState& model) const {
  const auto choose = [this] {  // a path for ranks that were started in other folders, too
    const std::string chosen = impl_->choose();
    return chosen.empty() ? chosen : std::filesystem::absolute(chosen).string();
  };
  const std::string folder = impl_->rank.alone() ? choose() : impl_->told_by_first(choose);
  if (folder.empty()) return std::nullopt;
  const storage::CheckpointReader reader = storage::CheckpointReader::open(folder);
  impl_->check_recipe(reader.manifest());
  if (impl_->first()) warn_other_machine(reader.manifest(), instruction_set_of(model), impl_->rank.threads);
  Restored restored;
  restored.state = parse_run_state(reader.manifest().state);
  check_has_all(reader, model.model_ranges(model.units()));
  check_has_all(reader, model.state_ranges(model.units(), model.states_slices(), model.states_slices()));
  read_ranges(reader, model.model_ranges(model.units()));
  model.round_trained(model.units(), reader_of(reader));
  model.round_frozen(model.units(), reader_of(reader));
  model.start_average();  // of statistics that an earlier version kept without one
  for (const NamedRange& range : model.averaged_statistic_ranges(model.units())) {
    if (reader.find(range.name) != nullptr) read_range(reader, range);
  }
  read_ranges(reader, model.state_ranges(model.units(), model.states_slices(), model.states_slices()));
  if (restored.state.has_best) {
    restored.best = model.snapshot_parameters();
    read_ranges(reader, model.model_ranges(restored.best), kBestPrefix);
    model.round_trained(restored.best, reader_of(reader, kBestPrefix));
  }
  return restored;
}

}  // namespace furrow::train
