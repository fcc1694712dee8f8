#include "tests/testing/outcome.h"

#include <sstream>
#include <stdexcept>

#include "furrow/base/file.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/storage/checkpoint.h"

namespace furrow::testing {
namespace {

std::string deterministic_metrics(const std::string& path) {
  std::ostringstream text;
  for (const observe::StepRecord& record : observe::read_metrics(path)) {
    text << record.step << " " << record.samples;
    for (const auto& [name, value] : record.values) {
      if (!observe::is_machine_metric(name)) text << " " << name << "=" << std::hexfloat << value;
    }
    text << "\n";
  }
  return text.str();
}

std::map<std::string, std::string> tensors_of(const storage::CheckpointReader& checkpoint) {
  std::map<std::string, std::string> tensors;
  for (const storage::LogicalTensor& tensor : checkpoint.manifest().tensors) {
    Array array(tensor.dtype, tensor.shape);
    checkpoint.read(tensor.name, array.view());
    const auto bytes = array.view().bytes;
    tensors[tensor.name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return tensors;
}

}  // namespace

Outcome outcome_of(const std::string& run_folder) {
  Outcome outcome;
  outcome.weights = read_file(run_folder + "/model/model.safetensors");
  outcome.metrics = deterministic_metrics(run_folder + "/metrics.jsonl");
  const auto checkpoint = storage::newest_valid(run_folder + "/checkpoints");
  if (!checkpoint) throw std::runtime_error(run_folder + " has no checkpoint");
  outcome.tensors = tensors_of(*checkpoint);
  outcome.run_state = checkpoint->manifest().state;
  return outcome;
}

std::string difference(const Outcome& a, const Outcome& b) {
  if (a.weights != b.weights) return "weights differ";
  for (const auto& [name, bytes] : a.tensors) {
    const auto other = b.tensors.find(name);
    if (other == b.tensors.end()) return "only one has tensor " + name;
    if (other->second != bytes) return "tensor " + name + " differs";
  }
  if (a.tensors.size() != b.tensors.size()) return "one has more tensors";
  if (a.run_state != b.run_state) return "state differs: " + a.run_state + " and " + b.run_state;
  return a.metrics == b.metrics ? "" : "metrics differ:\n" + a.metrics + "and\n" + b.metrics;
}

}  // namespace furrow::testing
