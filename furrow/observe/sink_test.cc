#include "furrow/observe/sink.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/base/log.h"

namespace furrow::observe {
namespace {

class Recorder : public Sink {
 public:
  explicit Recorder(int fail_at_step = -1) : fail_at_step_(fail_at_step) {}
  void begin(const std::string& name, const std::string&, int64_t) override {
    calls += "begin " + name + ";";
  }
  void progress(int64_t step, int64_t) override { calls += fmt::format("p{};", step); }
  void log(const StepRecord& record) override {
    if (record.step == fail_at_step_) throw Error(ErrorCode::kResourceExhausted, "disk full");
    calls += fmt::format("l{};", record.step);
  }
  void artifact(const std::string& name, const std::string&) override { calls += "a " + name + ";"; }
  void end(const std::string& status) override { calls += "end " + status; }
  std::string calls;

 private:
  int fail_at_step_;
};

void run(Sink& sink) {
  sink.begin("r", "", 0);
  for (int step = 1; step <= 2; ++step) {
    sink.progress(step, 2);
    sink.log({step, step, {}});
  }
  sink.artifact("model", "m");
  sink.end("finished");
}

constexpr const char* kAll = "begin r;p1;l1;p2;l2;a model;end finished";

TEST(SinkGroup, PassesEverythingToEverySink) {
  Recorder first, second;
  Sink* const others[] = {&second};
  SinkGroup group(&first, others);
  run(group);
  EXPECT_EQ(first.calls, kAll);
  EXPECT_EQ(second.calls, kAll);
}

TEST(SinkGroup, ASinkThatFailsIsNamedAndDroppedWhileTheOthersGoOn) {
  std::string log;
  set_log_writer([&](std::string_view line) { log += line; });
  Recorder first, failing(1), last;
  Sink* const others[] = {&failing, &last};
  SinkGroup group(&first, others);
  run(group);
  set_log_writer({});
  EXPECT_EQ(failing.calls, "begin r;p1;");
  EXPECT_EQ(first.calls, kAll);
  EXPECT_EQ(last.calls, kAll);
  EXPECT_NE(log.find("disk full"), std::string::npos);
}

TEST(SinkGroup, AnErrorOfThePrimaryIsTheCallers) {
  Recorder failing(2);
  SinkGroup group(&failing, {});
  EXPECT_THROW(run(group), Error);
}

TEST(Metrics, MachineMetricsAreToldApartByTheirUnit) {
  for (const char* name : {"samples_per_second", "step_time_ms", "data_wait_s", "memory_bytes"}) {
    EXPECT_TRUE(is_machine_metric(name)) << name;
  }
  for (const char* name :
       {"loss", "grad_norm", "lr", "validation_loss", "validation_accuracy", "loss_scale"}) {
    EXPECT_FALSE(is_machine_metric(name)) << name;
  }
}

}  // namespace
}  // namespace furrow::observe
