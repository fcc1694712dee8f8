#include "apps/furrow/plan_print.h"

#include <gtest/gtest.h>

#include <memory>

#include "furrow/train/predict.h"
#include "tests/testing/child.h"

namespace furrow::app {
namespace {

// How often a view of two ranks asks for its machine's costs, which may be a large profile.
int opened(const std::string& part, bool traces, const std::string& more = "") {
  const testing::TemporaryFolder folder;
  const config::Config config = config::parse(
      "[model]\nname = 'gpt'\nvocab_size = 32\nlayers = 2\nheads = 2\n"
      "width = 16\n[training]\ndataset = 'text'\ndataset_path = 'none'\n"
      "seq_len = 8\nsteps = 1\nlocal_batch_size = 2\n"
      "global_batch_size = 4\n" +
          more,
      "plan_print_test", {});
  int times = 0;
  LayoutView view;
  view.ranks = 2;
  view.part = part;
  if (traces) view.trace_path = folder.path() + "/trace.json";
  view.costs = [&times] {
    ++times;
    return train::machine_costs(train::local_machine(2, {}), "");
  };
  ::testing::internal::CaptureStdout();
  print_layout(config, planned_model(config), view);
  EXPECT_NE(::testing::internal::GetCapturedStdout(), "");
  return times;
}

TEST(PlanPrint, OpensCostsOnceForBucketsAndTheTimeline) {
  EXPECT_EQ(opened("memory", /*traces=*/true), 1);
  EXPECT_EQ(opened("timeline", /*traces=*/true), 1);
  EXPECT_EQ(opened("memory", /*traces=*/false), 1) << "for buckets";
  EXPECT_EQ(opened("memory", /*traces=*/false, "[parallelism]\nbucket_cap_mb = 0\n"), 0) << "for nothing";
}

}  // namespace
}  // namespace furrow::app
