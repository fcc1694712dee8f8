// TensorBoard event files, without protobuf or TensorFlow.
//
// Framing: TFRecord (length, masked CRC-32C of it, data, masked CRC-32C of that).  Messages: Event, Summary
// and SessionLog of tensorflow's event.proto and summary.proto, encoded by hand; scalars are `simple_value`,
// which every reader takes.  Each start writes a new file that begins with SessionLog START at the first step
// to come: readers then forget what an interrupted run wrote from there on, so no step shows twice.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "furrow/base/clock.h"
#include "furrow/base/file.h"
#include "furrow/observe/sink.h"

namespace furrow::observe {

class TensorBoardSink : public Sink {
 public:
  // Writes "<folder>/events.out.tfevents.<unix time>.<host>.<pid>.0"; `clock` must outlive the sink.
  explicit TensorBoardSink(std::string folder, const Clock& clock = system_clock());

  void begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) override;
  void log(const StepRecord& record) override;
  void artifact(const std::string& /*name*/, const std::string& /*path*/) override {}
  void end(const std::string& status) override;

 private:
  double wall_time() const;
  std::string folder_;
  const Clock& clock_;
  std::unique_ptr<AppendFile> file_;
};

// One record of a TFRecord file.
std::string frame_record(std::string_view data);

}  // namespace furrow::observe
