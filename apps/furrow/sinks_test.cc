#include "apps/furrow/sinks.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "furrow/base/file.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

TEST(Sinks, TheConfigDecidesWhichRecordsThereAre) {
  config::Config config;
  config.metrics.enable_plots = false;
  EXPECT_EQ(make_sinks(config, "runs/a").size(), 1u);
  config.metrics.enable_tensorboard = true;
  config.metrics.enable_plots = true;
  EXPECT_EQ(make_sinks(config, "runs/a").size(), 3u);
}

// Every row of the table, driven as a run drives it.
TEST(Sinks, EachRecordsAWholeRun) {
  char root[] = "/tmp/furrow_sinks_XXXXXX";
  const std::string path = std::string(::mkdtemp(root)) + "/a";
  config::Config config;
  config.metrics.enable_tensorboard = true;
  {
    observe::RunFolder folder = observe::RunFolder::create(path);
    const auto owned = make_sinks(config, path);
    std::vector<observe::Sink*> sinks;
    for (const auto& sink : owned) sinks.push_back(sink.get());
    observe::SinkGroup group(&folder, sinks);
    group.begin("a", "", 0);
    for (int64_t step = 1; step <= 3; ++step) {
      group.log({step, step, {{"loss", 1.0 / static_cast<double>(step)}}});
      group.progress(step, 3);
    }
    group.artifact("model", path + "/model");
    group.end("finished");
  }
  EXPECT_TRUE(path_exists(path + "/loss.svg"));
  EXPECT_TRUE(path_exists(path + "/tb"));
  remove_all(parent_directory(path));
}

}  // namespace
}  // namespace furrow::app
