#include "furrow/observe/run_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"

namespace furrow::observe {
namespace {

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string status_of(const RunInfo& run) {
  if (RunLock::is_held(run.path)) return "running";
  return run.summary ? run.summary->status : "killed";
}

[[noreturn]] void throw_no_run(const std::string& path) {
  throw Error(
      ErrorCode::kNotFound,
      fmt::format("{} is not the folder of a run: it has no config.toml (`furrow runs` lists those in runs/)",
                  path));
}

}  // namespace

RunFolder RunFolder::create(const std::string& path) {
  const std::string folder = without_trailing_slash(path);
  try {
    make_directories(folder);
  } catch (const Error& error) {
    throw Error(
        error.code(),
        fmt::format("{}: a run needs a folder of its own: give another --job.dump_folder", error.what()));
  }
  RunFolder result(folder, RunLock(folder));
  if (holds_run(folder)) throw_holds_run(folder);
  return result;
}

RunFolder RunFolder::resume(const std::string& path) {
  const std::string folder = without_trailing_slash(path);
  if (!holds_run(folder)) throw_no_run(folder);
  return RunFolder(folder, RunLock(folder));
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)),
      lock_(std::exchange(other.lock_, std::nullopt)),
      metrics_(std::exchange(other.metrics_, std::nullopt)) {}

RunFolder::~RunFolder() {
  if (!lock_ || metrics_ || holds_run(path_)) return;
  ::unlink(file(".lock").c_str());
  lock_.reset();
  ::rmdir(path_.c_str());  // only when nothing else is in it
}

std::string RunFolder::file(std::string_view name) const {
  return name.starts_with('/') ? std::string(name) : fmt::format("{}/{}", path_, name);
}

void RunFolder::begin(const std::string& /*run_name*/, const std::string& config_toml, int64_t resumed_step) {
  resumed_step_ = resumed_step;
  metrics_.emplace(file("metrics.jsonl"), resumed_step);
  ::unlink(file("summary.json").c_str());  // of the run before it was resumed
  write_file_atomic(file("config.toml"), config_toml);
}

void RunFolder::log(const StepRecord& record) { metrics_.value().append(record); }

void RunFolder::end(const std::string& /*status*/) { metrics_.value().sync(); }

void RunFolder::write_plan(const std::string& text) { write_file_atomic(file("plan.txt"), text); }

void RunFolder::write_summary(const Summary& summary) {
  write_file_atomic(file("summary.json"), to_json(summary));
  if (metrics_ && summary.steps > resumed_step_) metrics_->append_line(to_closing_line(summary));
}

std::string claim_run_folder(const std::string& root, const std::string& stem) {
  make_directories(root);
  for (int number = 1;; ++number) {
    const std::string path = fmt::format("{}/{}-{:03}", root, stem, number);
    if (::mkdir(path.c_str(), 0777) == 0) return path;
    if (errno != EEXIST) throw errno_error(errno, "create the run folder", path);
  }
}

void throw_holds_run(const std::string& folder) {
  throw Error(ErrorCode::kAlreadyExists,
              fmt::format("{} already holds a run: go on with `furrow train {} --resume`, or give another "
                          "--job.dump_folder",
                          folder, folder));
}

bool holds_run(const std::string& path) { return path_exists(path + "/config.toml"); }

std::string read_config_text(const std::string& run_folder) {
  if (!holds_run(run_folder)) throw_no_run(run_folder);
  return read_file(run_folder + "/config.toml");
}

RunInfo read_run(const std::string& run_folder) {
  RunInfo run;
  run.path = without_trailing_slash(run_folder);
  if (!holds_run(run.path)) throw_no_run(run.path);
  run.name = std::filesystem::path(run.path).filename().string();
  const std::string summary = run.path + "/summary.json";
  try {
    if (path_exists(summary)) run.summary = parse_summary(read_file(summary));
  } catch (const Error& error) {
    throw error.with_context(summary);
  }
  const auto records = read_metrics(run.path + "/metrics.jsonl");
  for (const StepRecord& record : records) {
    run.last_step = record.step;
    if (const double* loss = find_value(record, "loss")) run.loss = *loss;
  }
  run.status = status_of(run);
  return run;
}

std::vector<RunInfo> list_runs(const std::string& root) {
  std::error_code ignored;
  std::vector<std::string> folders;
  for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
    if (holds_run(entry.path().string())) folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  std::vector<RunInfo> runs;
  for (const std::string& folder : folders) {
    try {
      runs.push_back(read_run(folder));
    } catch (const Error& error) {
      log_warning(fmt::format("left out of the list: {}", error.what()));
    }
  }
  return runs;
}

}  // namespace furrow::observe
