#include "furrow/plan/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "furrow/base/error.h"
#include "furrow/config/debug.h"
#include "furrow/config/parallelism.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"

namespace furrow::plan {
namespace {

using ::testing::HasSubstr;

template <class Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

TEST(Layout, DefaultsToOneRank) {
  EXPECT_EQ(Layout().world(), 1);
  EXPECT_EQ(Layout().to_string(), "pp1 dp_replicate1 dp_shard1 cp1 tp1 ep1");
  EXPECT_EQ(Layout(), Layout({1, 1, 1, 1, 1, 1}, 1));
}

TEST(Layout, RanksAndCoordinatesAreInverse) {
  const Layout layout({2, 1, 3, 1, 4, 1}, 24);
  std::set<std::array<int, 6>> seen;
  for (int rank = 0; rank < layout.world(); ++rank) {
    EXPECT_EQ(layout.rank_of(layout.coordinates(rank)), rank);
    EXPECT_TRUE(seen.insert(layout.coordinates(rank)).second);
  }
  EXPECT_EQ(layout.coordinates(5), (std::array<int, 6>{0, 0, 1, 0, 1, 0}));
  EXPECT_EQ(layout.degree(Axis::kTensor), 4);
  EXPECT_THROW(layout.coordinates(24), Error);
  EXPECT_THROW(layout.rank_of({2, 0, 0, 0, 0, 0}), Error);
}

TEST(Layout, ErrorsDoTheArithmetic) {
  EXPECT_THAT(error_of([] { Layout({1, 1, 2, 1, 2, 1}, 1); }),
              HasSubstr("dp_shard 2 x tp 2 = 4, but the world is 1"));
  EXPECT_THAT(error_of([] { Layout({1, 1, 1, 1, 1, 1}, 8); }),
              HasSubstr("every axis 1 = 1, but the world is 8"));
  EXPECT_THAT(error_of([] { Layout({1, 1, 1, 1, 0, 1}, 1); }), HasSubstr("axis tp has degree 0"));
  EXPECT_THAT(error_of([] { Layout({1 << 20, 1 << 20, 1 << 20, 1, 1, 1}, 1); }), HasSubstr("more than"));
}

TEST(Layout, ComesFromTheConfig) {
  config::Parallelism p;
  EXPECT_EQ(layout_from(p, 1), Layout());
  EXPECT_EQ(layout_from(p, 4), Layout({1, 1, 4, 1, 1, 1}, 4));
  p.data_parallel_replicate_degree = 2;
  EXPECT_EQ(layout_from(p, 4), Layout({1, 2, 2, 1, 1, 1}, 4));
  p.data_parallel_replicate_degree = 1;
  p.tensor_parallel_degree = 2;
  p.data_parallel_shard_degree = -1;
  EXPECT_EQ(layout_from(p, 8), Layout({1, 1, 4, 1, 2, 1}, 8));
  EXPECT_THAT(error_of([&] { layout_from(p, 3); }), HasSubstr("tp 2 = 2, but the world is 3"));
  p.data_parallel_shard_degree = 2;
  EXPECT_THAT(error_of([&] { layout_from(p, 1); }),
              HasSubstr("[parallelism]: dp_shard 2 x tp 2 = 4, but the world is 1"));
  p.tensor_parallel_degree = 0;
  EXPECT_THAT(error_of([&] { layout_from(p, 1); }), HasSubstr("tensor_parallel_degree is 0"));
}

TEST(RankOptions, ComeFromTheConfig) {
  config::Parallelism p;
  config::Debug debug;
  const RankOptions plain = rank_options_from(p, debug, 3);
  EXPECT_EQ(plain.rank, 3);
  EXPECT_EQ(plain.zero_stage, 3);
  EXPECT_EQ(plain.reshard, Reshard::kDefault);
  EXPECT_EQ(plain.deterministic, Deterministic::kAuto);
  EXPECT_EQ(plain.prefetch_units, 1);
  EXPECT_EQ(plain.bucket_bytes, 0);
  EXPECT_EQ(plain.pipeline.schedule, "1F1B");
  EXPECT_EQ(plain.pipeline.stages_per_rank, 0);
  p.zero_stage = 1;
  p.fsdp_reshard_after_forward = "never";
  p.fsdp_prefetch_units = 4;
  p.bucket_cap_mb = 0.5;
  debug.deterministic = "strict";
  p.pipeline_parallel_schedule = "GPipe";
  p.pipeline_parallel_stages_per_rank = 2;
  p.pipeline_parallel_units_per_stage = {3, 1};
  p.pipeline_parallel_receives_ahead = 2;
  const RankOptions other = rank_options_from(p, debug, 0);
  EXPECT_EQ(other.zero_stage, 1);
  EXPECT_EQ(other.reshard, Reshard::kNever);
  EXPECT_EQ(other.deterministic, Deterministic::kStrict);
  EXPECT_EQ(other.prefetch_units, 4);
  EXPECT_EQ(other.bucket_bytes, 512 << 10);
  EXPECT_EQ(other.pipeline.schedule, "GPipe");
  EXPECT_EQ(other.pipeline.stages_per_rank, 2);
  EXPECT_EQ(other.pipeline.units_per_stage, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(other.pipeline.receives_ahead, 2);
}

TEST(Parallelism, StagesByNameAreCounted) {
  const ModelSpec spec = testing::chain(6);
  config::Parallelism p;
  const auto named = [&] {
    PipelineOptions options = rank_options_from(p, {}, 0).pipeline;
    name_stages(p, spec, &options);
    return options;
  };
  p.module_fqns_per_model_part = {"u0", "u1 u2", "u3", "u4 u5"};
  EXPECT_TRUE(named().units_per_stage.empty());  // there is no pipeline
  p.pipeline_parallel_degree = 2;
  EXPECT_EQ(named().units_per_stage, (std::vector<int64_t>{1, 2, 1, 2}));
  EXPECT_EQ(named().stages_per_rank, 2);
  p.pipeline_parallel_stages_per_rank = 1;
  EXPECT_THAT(error_of([&] { named(); }),
              HasSubstr("4 stages for 2 ranks, pipeline_parallel_stages_per_rank is 1"));
  p.pipeline_parallel_stages_per_rank = 0;
  p.module_fqns_per_model_part = {};
  p.pipeline_parallel_layers_per_stage = 3;
  EXPECT_EQ(named().units_per_stage, (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(named().stages_per_rank, 1);
  p.pipeline_parallel_first_stage_less_layers = 0;
  p.pipeline_parallel_layers_per_stage = 2;
  EXPECT_THAT(error_of([&] { named(); }),
              HasSubstr("pipeline_parallel_layers_per_stage makes 3 stages for 2 ranks"));
}

}  // namespace
}  // namespace furrow::plan
