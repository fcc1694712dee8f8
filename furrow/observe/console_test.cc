#include "furrow/observe/console.h"

#include <gtest/gtest.h>

#include "furrow/base/log.h"

namespace furrow::observe {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

class ConsoleTest : public ::testing::Test {
 protected:
  ConsoleOptions options(bool live, bool color = false) {
    ConsoleOptions options;
    options.live = live;
    options.color = color;
    options.width = [this] { return width_; };
    options.write = [this](std::string_view text) { screen_ += text; };
    options.memory_bytes = [] { return int64_t{64} << 20; };
    options.clock = &clock_;
    return options;
  }
  std::string taken() { return std::exchange(screen_, ""); }
  static StepRecord record(int64_t step) {
    return {step,
            step * 64,
            {{"loss", 0.43125}, {"grad_norm", 1.5}, {"lr", 0.02}, {"samples_per_second", 5210.4}}};
  }
  ManualClock clock_;
  std::string screen_;
  int width_ = 120;
};

TEST_F(ConsoleTest, PlainLineForEachRecordElsewhere) {
  ConsoleSink sink(options(false));
  sink.begin("a", "", 0);
  sink.progress(1, 10);
  sink.log(record(1));
  sink.end("finished");
  EXPECT_EQ(screen_,
            "step:     1  loss: 0.43125  grad_norm: 1.5  lr: 0.02  memory: 64.0 MiB  samples/s: 5,210\n");
}

TEST_F(ConsoleTest, LiveLineShowsProgressAndTimeLeft) {
  ConsoleSink sink(options(true));
  sink.begin("a", "", 0);
  sink.progress(1, 100);
  sink.log(record(1));
  clock_.advance_ns(10 * kSecond);
  taken();
  sink.progress(51, 100);  // 50 steps in 10 s: 49 more take 9.8 s
  EXPECT_EQ(taken(),
            "\r\x1b[Ka  [==========>         ]  51/100  loss 0.4313  lr 0.02  5,210 samples/s  64.0 MiB  ETA "
            "10 s");
}

TEST_F(ConsoleTest, RedrawsAtMostTenTimesASecond) {
  ConsoleSink sink(options(true));
  sink.begin("a", "", 0);
  for (int step = 1; step <= 1000; ++step) {
    sink.progress(step, 1000);
    clock_.advance_ns(kSecond / 1000);
  }
  size_t redraws = 0;
  for (const char c : screen_) redraws += c == '\r';
  EXPECT_EQ(redraws, 10u);
}

TEST_F(ConsoleTest, NarrowTerminalsKeepWhatMattersMost) {
  width_ = 32;
  ConsoleSink sink(options(true));
  sink.begin("a-long-name", "", 0);
  sink.log(record(7));
  sink.progress(7, 100);
  EXPECT_EQ(screen_, "\r\x1b[K7/100  loss 0.4313");
}

TEST_F(ConsoleTest, ValidationStaysOnTheScreen) {
  ConsoleSink sink(options(true));
  sink.begin("a", "", 0);
  sink.progress(1, 2);
  taken();
  sink.log({1, 64, {{"validation_loss", 2.0}}});
  EXPECT_EQ(taken(), "\r\x1b[Kstep:     1  validation_loss: 2  memory: 64.0 MiB\n");
}

TEST_F(ConsoleTest, LogLinesReplaceTheLiveLine) {
  ConsoleSink sink(options(true));
  sink.begin("a", "", 0);
  sink.progress(1, 2);
  taken();
  log_warning("careful");
  EXPECT_EQ(taken(), "\r\x1b[Kwarning: careful\n");
  sink.end("finished");
  EXPECT_EQ(taken(), "");
}

TEST_F(ConsoleTest, ColorOnlyWhenAsked) {
  ConsoleSink plain(options(false)), colored(options(false, true));
  plain.log(record(1));
  EXPECT_EQ(taken().find('\x1b'), std::string::npos);
  colored.log(record(1));
  EXPECT_NE(taken().find("\x1b[32mloss: 0.43125\x1b[0m"), std::string::npos);
}

}  // namespace
}  // namespace furrow::observe
