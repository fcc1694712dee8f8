// Where a run's record goes.  begin, then log and artifact in any order, then end; one thread.
// A sink that fails (disk full) throws; the run folder is the sink that must not.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace furrow::observe {

// What one logged step says.  Names are those of metrics.jsonl.
struct StepRecord {
  int64_t step = 0;                                      // steps finished
  int64_t samples = 0;                                   // global samples seen
  std::vector<std::pair<std::string, double>> values;    // loss, grad_norm, lr, samples_per_second, validation_loss...
};

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) = 0;
  virtual void log(const StepRecord& record) = 0;
  virtual void artifact(const std::string& name, const std::string& path) = 0;
  virtual void end(const std::string& status) = 0;  // "finished", "interrupted", "failed"
};

}  // namespace furrow::observe
