// What [parallelism] bucket_cap_mb -1 stands for, and what is said of it.
#include "furrow/train/layout_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/simulate.h"
#include "furrow/train/predict.h"
#include "furrow/train/recipe.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Seventeen layers of 16 KiB.
config::Config deep(const std::string& throttle = "") {
  config::Config config;
  config.model.name = "mlp";
  config.model.hidden.assign(16, 64);
  config.training.local_batch_size = 4;
  config.training.global_batch_size = 8;
  config.comm.throttle = throttle;
  config.parallelism.data_parallel_shard_degree = 1;
  config.parallelism.data_parallel_replicate_degree = 2;
  return config;
}

plan::ModelSpec spec_of(const config::Config& config) {
  return models::describe(config.model, {{DType::kF32, {-1, 64}}, 10});
}

const plan::Layout kTwo({1, 2, 1, 1, 1, 1}, 2);

Machine machine_on(const std::string& throttle) {
  Machine machine;
  machine.cores = machine.ranks = 2;
  machine.throttle = comm::parse_link(throttle);
  if (throttle.empty()) machine.inline_bytes = std::numeric_limits<int64_t>::max();
  return machine;
}

std::unique_ptr<plan::Costs> measured(const std::string& throttle) {
  const auto analytic = machine_costs(machine_on(throttle), "");
  plan::ProfileSection section;
  section.ranks = 2;
  section.overhead_s = 1e-6;
  return plan::profiled_costs(analytic->cluster(), section);
}

TEST(ChosenBuckets, AreThoseOfTheConfigWhereItSaysSo) {
  config::Config config = deep();
  for (const double cap : {0.0, 0.25, 4.0}) {
    config.parallelism.bucket_cap_mb = cap;
    const Buckets buckets = chosen_buckets(config, spec_of(config), kTwo, measured("").get());
    EXPECT_EQ(buckets.bytes, static_cast<int64_t>(cap * (1 << 20)));
    EXPECT_EQ(buckets.why, "");
  }
  config.parallelism.bucket_cap_mb = -1;
  EXPECT_TRUE(chooses_buckets(config, kTwo));
  EXPECT_FALSE(chooses_buckets(config, plan::Layout()));
  EXPECT_EQ(chosen_buckets(config, spec_of(config), plan::Layout(), nullptr).bytes, 0);
}

TEST(ChosenBuckets, FollowTheLinkWhereNothingWasMeasured) {
  const config::Config config = deep();
  const auto on = [&](const std::string& throttle) {
    return chosen_buckets(config, spec_of(config), kTwo, machine_costs(machine_on(throttle), "").get());
  };
  EXPECT_EQ(on("1Gbit,1ms").bytes, 1 << 20);
  EXPECT_EQ(on("100Mbit,2ms").bytes, 256 << 10);
  EXPECT_THAT(on("1Gbit,1ms").why, StartsWith("buckets of up to 1.0 MiB, which the link"));
  EXPECT_THAT(on("1Gbit,1ms").why, HasSubstr("furrow profile"));
  config::Config wide = deep();
  wide.model.hidden.assign(4, 2048);
  const Buckets none =
      chosen_buckets(wide, spec_of(wide), kTwo, machine_costs(machine_on("1Gbit,1ms"), "").get());
  EXPECT_EQ(none.bytes, 0);
  EXPECT_THAT(none.why, StartsWith("no buckets: no neighbours"));
}

// Ranks on a core each hide no communication: the fewer times they wait for each other the better, where
// larger buckets hold no more.
TEST(ChosenBuckets, AreTheLargestWhereRanksMoveGradientsThemselves) {
  config::Config config = deep();
  const auto on = [&](int shards, int64_t stage) {
    config.parallelism.zero_stage = stage;
    const plan::Layout layout({1, 2 / shards, shards, 1, 1, 1}, 2);
    return chosen_buckets(config, spec_of(config), layout, machine_costs(machine_on(""), "").get());
  };
  EXPECT_EQ(on(1, 3).bytes, 25 << 20);
  EXPECT_EQ(on(2, 1).bytes, 25 << 20);
  EXPECT_THAT(on(2, 1).why, StartsWith("buckets of up to 25.0 MiB, as ranks move gradients themselves"));
  EXPECT_LT(on(2, 2).bytes, 25 << 20) << "control: whole gradients in flight";
  EXPECT_LT(on(2, 3).bytes, 25 << 20) << "control";
}

TEST(ChosenBuckets, AreThoseOfTheQuickestSimulatedStep) {
  const config::Config config = deep("1Gbit,1ms");
  const plan::ModelSpec spec = spec_of(config);
  const auto costs = measured("1Gbit,1ms");
  const Buckets buckets = chosen_buckets(config, spec, kTwo, costs.get());
  const auto step_of = [&](int64_t bytes) {
    plan::TrainOptions options = train_options(config, spec, kTwo);
    options.ranks.bucket_bytes = bytes;
    return plan::simulate(programs_of_world(spec, kTwo, options), spec, *costs).step_s;
  };
  EXPECT_GT(buckets.bytes, 0);
  for (const int64_t bytes : {0, 256 << 10, 1 << 20, 4 << 20, 25 << 20})
    EXPECT_LE(step_of(buckets.bytes), 1.02 * step_of(bytes)) << bytes;
  EXPECT_LT(step_of(buckets.bytes), .5 * step_of(0));  // control
  EXPECT_THAT(buckets.why, HasSubstr(" as simulated, "));
}

// A step that local_batch_size does not divide has a smaller microbatch, which the search does not know.
TEST(ChosenBuckets, OfAStepThatIsUneven) {
  config::Config config = deep("1Gbit,1ms");
  config.training.global_batch_size = 6;
  const auto why = [&] {
    return chosen_buckets(config, spec_of(config), kTwo, measured("1Gbit,1ms").get()).why;
  };
  EXPECT_THAT(why(), HasSubstr("as simulated"));
  config.training.global_batch_size = 4;  // too few for two ranks: whoever compiles says so
  EXPECT_THAT(why(), HasSubstr("which the link"));
}

TEST(ChosenBuckets, OfDevicesAreThoseOfDistributedDataParallel) {
  config::Config config = deep();
  EXPECT_EQ(chosen_buckets(config, spec_of(config), kTwo, nullptr).bytes, 25 << 20);
  config.training.device = "cuda";
  const Buckets buckets = chosen_buckets(config, spec_of(config), kTwo, measured("").get());
  EXPECT_EQ(buckets.bytes, 25 << 20);
  EXPECT_THAT(buckets.why, HasSubstr("as DistributedDataParallel has them"));
}

}  // namespace
}  // namespace furrow::train
