// Where a run's record goes.  begin, then progress, log and artifact in any order, then end; one thread.
// A sink that fails (disk full) throws.  The run folder is the sink that must not; SinkGroup drops the others
// that do.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace furrow::observe {

// What one logged step says.  Names are those of metrics.jsonl.
struct StepRecord {
  int64_t step = 0;     // steps finished
  int64_t samples = 0;  // global samples seen
  std::vector<std::pair<std::string, double>>
      values;  // loss, grad_norm, lr, samples_per_second, validation_loss...
};

// Whether a metric measures the machine (samples_per_second, ..._ms, ..._s, ..._bytes) rather than the
// mathematics. Those differ between two runs of one recipe; sinks write them after the others.
bool is_machine_metric(std::string_view name);

// The value of `name`, or nullptr.
const double* find_value(const StepRecord& record, std::string_view name);

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) = 0;
  // After every step, logged or not; `total_steps` is 0 where unknown.  Must cost next to nothing.
  virtual void progress(int64_t /*step*/, int64_t /*total_steps*/) {}
  virtual void log(const StepRecord& record) = 0;
  virtual void artifact(const std::string& name, const std::string& path) = 0;
  virtual void end(const std::string& status) = 0;  // "finished", "interrupted", "stopped early", "failed"
};

// Passes everything to `primary`, whose errors are the caller's, then to each of `others`: one of those that
// throws is named in a warning and gets nothing more.  Pointers must outlive the group.  One thread.
class SinkGroup : public Sink {
 public:
  SinkGroup(Sink* primary, std::span<Sink* const> others);
  void begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) override;
  void progress(int64_t step, int64_t total_steps) override;
  void log(const StepRecord& record) override;
  void artifact(const std::string& name, const std::string& path) override;
  void end(const std::string& status) override;

 private:
  template <class Call>
  void each(const Call& call);
  Sink* primary_;
  std::vector<Sink*> others_;
};

}  // namespace furrow::observe
