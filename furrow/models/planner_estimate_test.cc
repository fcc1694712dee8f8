// The planner's closed form, which ranks thousands of layouts, beside the simulation of the compiled
// programs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/models/architectures.h"
#include "furrow/models/testing/h100_hosts.h"
#include "furrow/plan/search.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::models {
namespace {

// Of a layout, as shares of the simulated step: the worst one, and the mean of all.
constexpr double kMost = .08, kMean = .025;

// Of a layout's memory, over the simulated: at the least, and at the most, where the stages of a rank add up
// gradients of different turns, whose nodes are not all there at the same time.
constexpr double kLeastOver = -.01, kMostOver = .125;

// On a tree with half of its wires.
plan::Cluster h100s(int hosts) {
  plan::Cluster cluster = testing::h100_hosts(hosts);
  cluster.network.topology = plan::Topology::kTree;
  cluster.network.ports_per_leaf = 4;
  cluster.network.oversubscription = 2;
  return cluster;
}

// What the steps of layouts are estimated to take, over what they take in the simulation.
class Estimates {
 public:
  Estimates(const std::string& example, int hosts)
      : config_(config::load((furrow::testing::source_root() / "examples" / example).string())),
        spec_(describe(config_.model,
                       {{DType::kI64, {-1, config_.training.seq_len}}, config_.model.vocab_size})),
        costs_(plan::analytic_costs(h100s(hosts))) {
    request_.spec = &spec_;
    request_.costs = costs_.get();
    request_.batch = {config_.training.local_batch_size, config_.training.global_batch_size};
    request_.optimizer_states = 2;
  }
  Estimates(const Estimates&) = delete;

  // `degrees`: pp, dp_shard, tp, whose product is the world.
  plan::Choice choice(std::array<int, 3> degrees, int zero_stage, const std::string& schedule) const {
    plan::Choice choice;
    choice.layout = plan::Layout({degrees[0], 1, degrees[1], 1, degrees[2], 1}, costs_->cluster().world());
    choice.zero_stage = zero_stage;
    choice.pipeline.schedule = schedule;
    choice.pipeline.stages_per_rank = schedule == "GPipe" || schedule == "1F1B" || schedule == "ZBH1" ? 1 : 2;
    choice.recompute.assign(spec_.units.size(), false);
    choice.batch = request_.batch;
    return choice;
  }

  // Of every `again`-th unit computed again, 0: of none: no less than in the simulation, and little more.
  void compare_memory(plan::Choice choice, size_t again) {
    for (size_t u = 0; u < choice.recompute.size(); ++u) choice.recompute[u] = again > 0 && u % again == 0;
    const plan::Appraisal found = appraise(request_, choice);
    const double over = static_cast<double>(found.estimated.memory_bytes) /
                            static_cast<double>(found.simulated.memory_bytes) -
                        1;
    EXPECT_GT(over, kLeastOver) << plan::to_text(choice)
                                << fmt::format(", every {}: {:+.2f} %", again, 100 * over);
    EXPECT_LT(over, kMostOver) << plan::to_text(choice)
                               << fmt::format(", every {}: {:+.2f} %", again, 100 * over);
  }

  void compare(std::array<int, 3> degrees, int zero_stage, const std::string& schedule, bool recompute) {
    plan::Choice choice = this->choice(degrees, zero_stage, schedule);
    choice.recompute.assign(spec_.units.size(), recompute);
    const plan::Appraisal found = appraise(request_, choice);
    const double off = found.estimated.step_s / found.simulated.step_s - 1;
    EXPECT_LT(std::abs(off), kMost) << plan::to_text(choice) << fmt::format(": {:+.1f} %", 100 * off);
    sum_ += std::abs(off);
    ++layouts_;
  }

  double mean() const { return sum_ / layouts_; }

 private:
  config::Config config_;
  plan::ModelSpec spec_;
  std::unique_ptr<plan::Costs> costs_;
  plan::SearchRequest request_;
  double sum_ = 0;
  int layouts_ = 0;
};

void compare_all(Estimates* estimates, const std::vector<std::array<int, 3>>& degrees) {
  bool recompute = false;
  for (const std::array<int, 3>& each : degrees) {
    for (int zero = each[1] > 1 ? 1 : 0; zero <= (each[1] > 1 ? 3 : 0); ++zero) {
      for (const char* schedule : {"1F1B", "ZBH1", "Interleaved1F1B", "ZBVZeroBubble"}) {
        estimates->compare(each, zero, schedule, recompute);
        if (each[0] == 1) break;  // there is nothing to choose
        recompute = !recompute;
      }
      recompute = !recompute;
    }
  }
  EXPECT_LT(estimates->mean(), kMean);
}

TEST(PlannerEstimates, Of7BAreNearTheSimulation) {
  Estimates estimates("llama2-7b.toml", 1);
  compare_all(&estimates, {{1, 8, 1}, {2, 4, 1}, {2, 2, 2}, {4, 1, 2}});
}

// Layouts whose gathers and reductions are hidden, and such that wait for them: one unit of a stage at a
// time.
TEST(PlannerEstimates, Of70BAreNearTheSimulation) {
  Estimates estimates("llama2-70b.toml", 32);
  compare_all(&estimates, {{1, 256, 1}, {4, 8, 8}, {16, 2, 8}});
}

// Every schedule, whatever is computed again.
TEST(PlannerEstimates, MemoryIsNoLessThanTheSimulation) {
  Estimates estimates("llama2-7b.toml", 1);
  for (const std::array<int, 3>& degrees : {std::array{4, 2, 1}, {8, 1, 1}, {4, 1, 2}}) {
    for (const char* schedule : {"GPipe", "1F1B", "ZBH1", "Interleaved1F1B", "LoopedBFS",
                                 "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"}) {
      for (const size_t again : {0, 1, 2})
        estimates.compare_memory(estimates.choice(degrees, degrees[1] > 1 ? 1 : 0, schedule), again);
    }
  }
}

}  // namespace
}  // namespace furrow::models
