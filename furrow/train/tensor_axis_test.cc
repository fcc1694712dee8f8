// Ranks that share every layer: beside them no axis changes a bit, and all of them together do what one rank
// does, but for the order of sums (what that order is worth: reordered_sums_test.cc).
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <mutex>

#include "furrow/plan/tensor_cut.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/train/checkpointer_torch.h"
#include "furrow/train/residence_torch.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/tiny_world_torch.h"

namespace furrow::train {
namespace {

using testing::RankResult;
using testing::run_parts;
using testing::run_steps;
using testing::run_world;
using testing::StepOptions;
using testing::StepResult;
using testing::TinyTraining;
using testing::WorldOptions;

// With groups of two heads for four ranks; the vocabulary of 13 leaves some of a part over.  "lora-": with
// adapters.
TinyTraining with_heads(const std::string& name) {
  TinyTraining tiny = name.starts_with("lora-") ? testing::adapted(name.substr(5)) : testing::tiny(name);
  if (tiny.config.model.name == "mlp") return tiny;
  tiny.config.model.heads = 8;
  tiny.config.model.kv_heads = 4;
  testing::describe_again(&tiny);
  return tiny;
}

class Parts : public ::testing::TestWithParam<std::string> {
 protected:
  TinyTraining tiny_ = with_heads(GetParam());
};

// The whole parameters, put together from the parts.
std::vector<at::Tensor> whole_of(const TinyTraining& tiny, const std::vector<StepResult>& parts) {
  const int degree = static_cast<int>(parts.size());
  const plan::ModelSpec spec = plan::tensor_cut(tiny.trained_spec(), degree);
  const ModelState model(spec, {}, 0);
  std::vector<at::Tensor> tensors;
  for (int u = 0; u < static_cast<int>(spec.units.size()); ++u) {
    std::vector<UnitState> of_unit;
    for (const StepResult& part : parts)
      of_unit.push_back({part.params[static_cast<size_t>(u)], {}, part.statistics[static_cast<size_t>(u)]});
    if (!of_unit[0].params.defined()) continue;
    for (const NamedTensor& each : model.tensors_of(u, of_unit)) tensors.push_back(each.view);
  }
  return tensors;
}

std::vector<at::Tensor> tensors_of(const TinyTraining& tiny, const StepResult& whole) {
  std::vector<StepResult> one(1);
  one[0].params = whole.params;
  one[0].statistics = whole.statistics;
  return whole_of(tiny, one);
}

// Of those of whole_of().
std::vector<at::Tensor> adapter_tensors(const TinyTraining& tiny, const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> adapters;
  size_t at = 0;
  for (const plan::Unit& unit : tiny.trained_spec().units) {
    for (const plan::Parameter& parameter : unit.parameters) {
      if (parameter.tied()) continue;
      if (parameter.adapter) adapters.push_back(tensors[at]);
      ++at;
    }
  }
  EXPECT_EQ(at, tensors.size());
  return adapters;
}

TEST_P(Parts, StartAsThePartsOfTheWhole) {
  for (const int degree : {2, 4}) {
    StepOptions options;
    options.steps = 0;
    const auto parts = run_parts(tiny_, options, degree);
    EXPECT_TRUE(testing::same_bits(whole_of(tiny_, parts), tensors_of(tiny_, run_steps(tiny_, options))));
  }
}

TEST_P(Parts, OtherAxesChangeNoBit) {
  StepOptions options;
  options.microbatch_sizes = {2, 2, 2, 2, 1};
  options.steps = 2;
  const std::vector<StepResult> expected = run_parts(tiny_, options, 2);
  std::vector<WorldOptions> worlds = {{.replicate = 2}};
  for (const int stage : {1, 2, 3}) worlds.push_back({.shard = 2, .zero_stage = stage});
  worlds.push_back({.pipeline = 2});
  worlds.push_back({.replicate = 2, .shard = 2, .zero_stage = 3});
  worlds.push_back({.shard = 2, .zero_stage = 1, .pipeline = 2});
  worlds.push_back({.shard = 2, .zero_stage = 3, .pipeline = 2});
  for (WorldOptions& world : worlds) {
    world.tensor = 2;
    std::mutex mutex;
    std::string found;
    run_world(tiny_, options, world, [&](const RankResult& rank) {
      const auto part = static_cast<size_t>(rank.program.placement.tensor_rank());
      const std::string here = testing::difference(rank, expected[part]);
      const std::lock_guard lock(mutex);
      if (found.empty()) found = here;
    });
    EXPECT_EQ(found, "") << world.name();
  }
}

TEST_P(Parts, StepAsOneRankButForTheOrderOfSums) {
  StepOptions options;
  options.microbatch_sizes = {2, 1};
  options.steps = 3;
  const StepResult whole = run_steps(tiny_, options);
  for (const int degree : {2, 4}) {
    const std::vector<StepResult> parts = run_parts(tiny_, options, degree);
    EXPECT_EQ(parts[0].outputs.loss.count, whole.outputs.loss.count);
    EXPECT_NEAR(parts[0].outputs.loss.mean(), whole.outputs.loss.mean(), 1e-4);
    EXPECT_NEAR(parts[0].outputs.scale.norm, whole.outputs.scale.norm, 1e-3 * whole.outputs.scale.norm);
    EXPECT_LT(testing::relative_error(whole_of(tiny_, parts), tensors_of(tiny_, whole)), 2e-3) << degree;
    if (tiny_.config.lora.rank > 0) {
      EXPECT_LT(testing::relative_error(adapter_tensors(tiny_, whole_of(tiny_, parts)),
                                        adapter_tensors(tiny_, tensors_of(tiny_, whole))),
                2e-3)
          << degree;
    }
    for (const StepResult& part : parts) EXPECT_EQ(part.outputs.scale.norm, parts[0].outputs.scale.norm);
  }
}

// A rank of `layout`: restores from a folder, or fills its state where there is none, and saves to another.
void pass_on(const TinyTraining& tiny, const plan::Layout& layout, const std::string& from,
             const std::string& to) {
  testing::run_ranks(layout.world(), [&](comm::Communicator& communicator) {
    RankContext rank;
    join(&communicator, layout, &rank);
    const plan::ModelSpec spec = plan::tensor_cut(tiny.trained_spec(), layout.degree(plan::Axis::kTensor));
    const plan::FlatLayout flat = plan::flat_layout(spec);
    const plan::Placement place = plan::placement_for(spec, layout, {.rank = rank.rank}, 0);
    ModelState model(spec, tiny.rule().states(), from.empty() ? 42 : 1, {}, residence_of(flat, place, rank));
    const auto at = [&](const std::string& folder) {
      return CheckpointPlace{folder, own_slices(flat, place), place.writes_statistics(),
                             place.counts_replicated()};
    };
    RunState state;
    state.step = 3;
    state.position = 7;
    if (from.empty()) {
      for (size_t u = 0; u < spec.units.size(); ++u) {
        for (at::Tensor& each : model.unit(static_cast<int>(u)).states)
          each.copy_(at::arange(each.numel(), at::kFloat).mul_(0.37).add_(static_cast<double>(u)));
      }
    } else {
      const auto restored = Checkpointer(tiny.config, at(from), rank).restore(model);
      ASSERT_TRUE(restored.has_value());
      EXPECT_EQ(to_text(restored->state), to_text(state));
    }
    std::vector<UnitState> taken;
    const std::vector<plan::Slice> own = own_slices(flat, place);
    for (size_t u = 0; u < spec.units.size(); ++u)
      taken.push_back(model.snapshot(static_cast<int>(u), {own[u], place.writes_statistics(), false}));
    Checkpointer writer(tiny.config, at(to), rank);
    writer.save(model, state, std::move(taken), {});
    writer.finish();
  });
}

// Every tensor of a checkpoint, by name.
std::map<std::string, std::vector<std::byte>> contents(const std::string& folder) {
  const auto reader = storage::newest_valid(folder);
  std::map<std::string, std::vector<std::byte>> tensors;
  for (const storage::LogicalTensor& each : reader->manifest().tensors) {
    Array array(each.dtype, each.shape);
    reader->read(each.name, array.view());
    const auto bytes = array.view().bytes;
    tensors[each.name].assign(bytes.begin(), bytes.end());
  }
  return tensors;
}

TEST_P(Parts, CheckpointsGoFromAnyDegreeToAnyOther) {
  const std::string root = ::testing::TempDir() + "/furrow_parts_" + testing::test_name(GetParam());
  std::filesystem::remove_all(root);
  const auto layout = [](int pp, int shards, int tensor) {
    return plan::Layout({pp, 1, shards, 1, tensor, 1}, pp * shards * tensor);
  };
  pass_on(tiny_, layout(1, 1, 1), "", root + "/0");
  pass_on(tiny_, layout(1, 2, 2), root + "/0", root + "/1");
  pass_on(tiny_, layout(1, 1, 4), root + "/1", root + "/2");
  pass_on(tiny_, layout(2, 1, 2), root + "/2", root + "/3");
  pass_on(tiny_, layout(1, 3, 1), root + "/3", root + "/4");
  const auto first = contents(root + "/0");
  EXPECT_GT(first.size(), 4U);
  for (const char* later : {"/1", "/2", "/3", "/4"}) EXPECT_TRUE(contents(root + later) == first) << later;
  std::filesystem::remove_all(root);
}

INSTANTIATE_TEST_SUITE_P(Networks, Parts,
                         ::testing::Values("gpt-tied", "gpt-untied", "llama-tied", "mlp", "gpt-tied@bfloat16",
                                           "gpt-tied@float16", "llama-untied@three-types", "lora-gpt-tied",
                                           "lora-llama-untied", "lora-mlp"),
                         [](const auto& info) { return testing::test_name(info.param); });

}  // namespace
}  // namespace furrow::train
