#include "furrow/data/pack.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/data/pack_work.h"
#include "furrow/data/records.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kShardBytes = uint64_t{64} << 20;
constexpr uint64_t kMostShards = 1024;
constexpr int64_t kMostAskedShards = 65536;      // each is a file, open or mapped in every reader
constexpr size_t kPieceBytes = size_t{1} << 20;  // written at a time
constexpr std::string_view kPlanFile = "packing.json";

struct Task {
  size_t split = 0, shard = 0;
  std::string file;
  int64_t first = 0, records = 0;
  size_t block_bytes = 0;
};

// What is to be written where.
struct Plan {
  storage::PackInfo info;
  std::vector<std::unique_ptr<Records>> records;  // one per split
  std::vector<Task> tasks;
  uint64_t bytes = 0;

  // Two plans with one text write the same shards.
  std::string text(const std::string& fingerprint) const {
    JsonWriter json(2);
    json.begin_object().field("fingerprint", fingerprint).field("layout", info.layout);
    json.field("record_bytes", static_cast<uint64_t>(info.record_bytes())).key("shards").begin_array();
    for (const Task& task : tasks) {
      json.begin_array().value(task.file).value(task.records);
      json.value(static_cast<uint64_t>(task.block_bytes)).end_array();
    }
    json.end_array().key("preprocessing").begin_object();
    for (const auto& [name, value] : info.preprocessing) json.field(name, value);
    json.end_object().key("lineage").begin_object();
    for (const auto& [name, value] : info.lineage) json.field(name, value);
    return json.end_object().end_object().text() + "\n";
  }
};

std::vector<storage::PackField> pack_fields(const Records& records) {
  std::vector<storage::PackField> fields;
  for (const Field& field : records.fields()) fields.push_back({field.name, field.dtype, field.shape});
  return fields;
}

// Shards for `records`, which the plan keeps.
void add_records(Plan& plan, storage::PackSplit split, std::unique_ptr<Records> records,
                 uint64_t shard_bytes) {
  const uint64_t record_bytes = records->record_bytes();
  const uint64_t total = static_cast<uint64_t>(records->size()) * record_bytes;
  const uint64_t wanted = shard_bytes > 0 ? shard_bytes : std::max(kShardBytes, total / kMostShards);
  const auto per_shard = static_cast<int64_t>(std::max<uint64_t>(1, wanted / record_bytes));
  if (records->size() / per_shard >= kMostAskedShards) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("shards of {} would be over {} files for the {} of {}: make them {} or larger",
                            format_bytes(wanted), kMostAskedShards, format_bytes(total), split.name,
                            format_bytes(total / kMostAskedShards + record_bytes)));
  }
  for (int64_t first = 0; first < records->size(); first += per_shard) {
    const size_t shard = split.shards.size();
    plan.tasks.push_back({plan.info.splits.size(), shard, fmt::format("{}-{:05}.shard", split.name, shard),
                          first, std::min(per_shard, records->size() - first),
                          storage::pack_block_bytes(record_bytes, total)});
    split.shards.emplace_back();
  }
  plan.bytes += total;
  plan.info.splits.push_back(std::move(split));
  plan.records.push_back(std::move(records));
}

void add_split(Plan& plan, const std::string& name, std::unique_ptr<Records> records, uint64_t shard_bytes) {
  std::vector<storage::PackField> fields = pack_fields(*records);
  if (plan.info.fields.empty()) plan.info.fields = fields;
  if (fields == plan.info.fields) fields.clear();
  add_records(plan, {.name = name, .fields = std::move(fields)}, std::move(records), shard_bytes);
}

void check_layout(std::string_view layout, const PackRequest& request, const std::string& set) {
  if (request.layout.empty() || request.layout == layout) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} gives records of the layout {}, not {}: leave the layout out",
                          set.empty() ? "the data" : fmt::format("set '{}'", set), layout, request.layout));
}

// The splits of `set`, with `suffix` behind their names.  Returns their layout.
std::string add_set(Plan& plan, const MixedSet& set, const std::string& suffix, const PackRequest& request) {
  const std::pair<const char*, const Source*> splits[] = {
      {"train", set.train}, {"validation", set.validation}, {"test", set.test}};
  std::string layout;
  std::vector<storage::PackField> fields;
  for (const auto& [name, source] : splits) {
    if (source == nullptr) continue;
    auto records = source->records();
    if (layout.empty()) {
      layout = records->layout();
      fields = pack_fields(*records);
      check_layout(layout, request, set.name);
      plan.info.lineage.merge(records->lineage());
    }
    FURROW_CHECK(records->layout() == layout && pack_fields(*records) == fields,
                 "splits of different layouts");
    auto index = records->index();
    const std::string split = name + suffix;
    add_split(plan, split, std::move(records), request.shard_bytes);
    if (index != nullptr)
      add_split(plan, split + std::string(kEndsSuffix), std::move(index), request.shard_bytes);
  }
  return layout;
}

Plan plan_of(const Dataset& dataset, const PackRequest& request) {
  Plan plan;
  plan.info.kind = request.kind;
  plan.info.preprocessing = dataset.preprocessing;
  plan.info.lineage = request.lineage;
  if (dataset.sets.empty()) {
    const MixedSet all{"", 1, dataset.train.get(), dataset.validation.get(), dataset.test.get()};
    plan.info.layout = add_set(plan, all, "", request);
    return plan;
  }
  plan.info.layout = kMixedRecords;
  for (size_t i = 0; i < dataset.sets.size(); ++i) {
    const MixedSet& set = dataset.sets[i];
    plan.info.parts.push_back({set.name, set.weight, add_set(plan, set, part_suffix(i), request)});
  }
  return plan;
}

// Writes the shards of a plan from several threads.
class Writer {
 public:
  Writer(Plan& plan, const PackRequest& request, std::string folder)
      : plan_(plan), request_(request), folder_(std::move(folder)) {}

  int64_t run() {
    const int threads = std::clamp<int>(request_.threads, 1, static_cast<int>(plan_.tasks.size()));
    {
      std::vector<std::jthread> workers;
      for (int i = 1; i < threads; ++i) workers.emplace_back([this] { work(); });
      work();
    }
    if (error_) std::rethrow_exception(error_);
    return kept_;
  }

 private:
  void work() {
    try {
      for (size_t i = next_++; i < plan_.tasks.size() && !stop_; i = next_++) write(plan_.tasks[i]);
    } catch (...) {
      stop_ = true;
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  bool keep(const Task& task, size_t record_bytes) {
    const std::string path = folder_ + "/" + task.file;
    if (!path_exists(path)) return false;
    try {
      storage::PackShard shard = storage::inspect_shard(path, record_bytes, task.first);
      if (shard.records != task.records) return false;
      plan_.info.splits[task.split].shards[task.shard] = shard;
      advance(static_cast<uint64_t>(task.records) * record_bytes);
      ++kept_;
      return true;
    } catch (const Error&) {  // not whole: written again
      return false;
    }
  }

  void check_cancelled() const {
    if (request_.cancel == nullptr || !request_.cancel->cancelled()) return;
    throw Error(ErrorCode::kCancelled,
                fmt::format("interrupted: {} keeps what is done, the same command goes on there", folder_));
  }

  void write(const Task& task) {
    const Records& records = *plan_.records[task.split];
    const size_t record_bytes = records.record_bytes();
    check_cancelled();
    if (keep(task, record_bytes)) return;
    storage::ShardWriter writer(folder_ + "/" + task.file, record_bytes, task.first, task.block_bytes);
    const auto piece = static_cast<int64_t>(std::max<size_t>(1, kPieceBytes / record_bytes));
    std::vector<std::byte> memory(static_cast<size_t>(std::min(piece, task.records)) * record_bytes);
    for (int64_t done = 0; done < task.records; done += piece) {
      check_cancelled();
      if (stop_) return;
      const auto part =
          std::span(memory).first(static_cast<size_t>(std::min(piece, task.records - done)) * record_bytes);
      records.read(task.first + done, part);
      writer.append(part);
      advance(part.size());
    }
    plan_.info.splits[task.split].shards[task.shard] = writer.commit();
  }

  void advance(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (request_.progress) request_.progress(done_, plan_.bytes);
  }

  Plan& plan_;
  const PackRequest& request_;
  std::string folder_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> kept_{0};
  std::mutex mutex_;  // of what follows
  uint64_t done_ = 0;
  std::exception_ptr error_;
};

// Makes `folder` ready for the plan: as an interrupted writer of the same plan left it, or without shards.
void prepare(const std::string& folder, const Plan& plan, const std::string& text) {
  const std::string plan_file = folder + "/" + std::string(kPlanFile);
  const bool same = path_exists(plan_file) && furrow::read_file(plan_file) == text;
  make_directories(folder);
  std::set<std::string> known;
  if (same) {
    known.insert(std::string(kPlanFile));
    for (const Task& task : plan.tasks) known.insert(task.file);
  }
  std::vector<fs::path> strange;  // of other plans, and temporary files of a killed writer
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!known.contains(name) && !belongs_to_opening(name)) strange.push_back(entry.path());
  }
  for (const fs::path& path : strange) remove_all(path.string());
  if (!same) write_file_atomic(plan_file, text);
}

}  // namespace

PackSummary write_pack(const Dataset& dataset, const PackRequest& request) {
  const std::string folder = plain_folder(request.folder);
  check_absent(folder);
  Plan plan = plan_of(dataset, request);
  const std::string working = folder + ".partial";
  prepare(working, plan, plan.text(request.fingerprint));
  PackSummary summary;
  summary.kept = Writer(plan, request, working).run();
  FURROW_FAILPOINT("pack.before_manifest");
  storage::write_pack(working, plan.info);
  remove_what_opening_left(working);
  FURROW_FAILPOINT("pack.before_rename");
  rename_durably(working, folder);
  remove_all(folder + "/" + std::string(kPlanFile));  // a pack is whole with it or without
  summary.shards = static_cast<int64_t>(plan.tasks.size());
  summary.bytes = plan.bytes;
  for (const auto& records : plan.records) summary.records += records->size();
  return summary;
}

}  // namespace furrow::data
