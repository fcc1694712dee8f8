// The folder of one run: config.toml (resolved), plan.txt, metrics.jsonl, summary.json, trace.json, loss.svg,
// TensorBoard events, checkpoints/, model/.  docs/formats/run-folder.md describes each.
//
//   auto folder = observe::RunFolder::create("runs/a");     // or ::resume("runs/a")
//   folder.begin("a", config_text, 0);
//   folder.log({.step = 10, .samples = 640, .values = {{"loss", 2.3}}});
//   folder.write_summary(summary);
//   folder.end("finished");
//
// While the object lives it holds a lock on `.lock`, which dies with the process, so two processes never
// write one run.  Not thread safe.  Small files appear whole or not at all (written beside, synced, renamed).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/observe/metrics_log.h"
#include "furrow/observe/run_lock.h"
#include "furrow/observe/sink.h"
#include "furrow/observe/summary.h"

namespace furrow::observe {

class RunFolder : public Sink {
 public:
  // Makes the folder (parents too); one that exists and holds no run will do.  Destroyed before begin() it
  // leaves nothing behind. Error{already_exists} when it holds a run; {permission_denied} when it cannot be
  // written; {unavailable} when another process writes it.
  static RunFolder create(const std::string& path);
  // Error{not_found} when there is no run; {unavailable} when another process writes it.
  static RunFolder resume(const std::string& path);

  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder() override;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const;  // path of what is in it; an absolute path stays as it is
  std::string checkpoints() const { return file("checkpoints"); }
  std::string model() const { return file("model"); }

  // Writes config.toml and opens metrics.jsonl, cut to the records of steps <= resumed_step.
  void begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) override;
  void log(const StepRecord& record) override;
  void artifact(const std::string& /*name*/, const std::string& /*path*/) override {
  }  // they are in the folder
  void end(const std::string& status) override;  // metrics.jsonl is durable on return

  void write_plan(const std::string& text);
  // Between begin() and end(); the audit goes to metrics.jsonl too, where this process finished a step.
  void write_summary(const Summary& summary);

 private:
  RunFolder(std::string path, RunLock lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string path_;
  std::optional<RunLock> lock_;        // none once moved from
  std::optional<MetricsLog> metrics_;  // from begin() on
  int64_t resumed_step_ = 0;
};

// Makes and returns "<root>/<stem>-NNN" with the next free number; two processes never get the same one.
std::string claim_run_folder(const std::string& root, const std::string& stem);

// Error{already_exists}: says how to go on with it.
[[noreturn]] void throw_holds_run(const std::string& folder);

// Whether `path` is the folder of a run (has config.toml).
bool holds_run(const std::string& path);

// config.toml of a run.  Error{not_found}.
std::string read_config_text(const std::string& run_folder);

// What is known of a run from its files alone; never locks it.
struct RunInfo {
  std::string name, path;
  std::string status;              // summary's, else "running" while a process holds the lock, else "killed"
  int64_t last_step = 0;           // of the last whole line of metrics.jsonl
  std::optional<double> loss;      // of that line
  std::optional<Summary> summary;  // absent until the run ended
};
RunInfo read_run(const std::string& run_folder);          // Error{not_found}, {data_loss}
std::vector<RunInfo> list_runs(const std::string& root);  // by name; a damaged one is a warning

}  // namespace furrow::observe
