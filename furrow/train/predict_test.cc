// What is predicted of the stages of a pipeline.  (What runs hold: held_memory_test.cc.)
#include "furrow/train/predict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/process.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/compatibility.h"
#include "furrow/train/recipe.h"
#include "tests/testing/child.h"

namespace furrow::train {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// The stage of the embedding alone does not.
TEST(Multiplies, IsOfTheStage) {
  config::Config config;
  config.model.name = "gpt";
  config.model.layers = 2;
  config.parallelism.pipeline_parallel_degree = 2;
  config.parallelism.pipeline_parallel_units_per_stage = {1, 3};
  config.training.global_batch_size = 2 * config.training.local_batch_size;
  const plan::Layout layout = plan::layout_from(config.parallelism, 2);
  const plan::ModelSpec spec = models::describe(config.model, {{DType::kI64, {-1, 8}}, 16});
  const std::vector<plan::Program> programs =
      programs_of_world(spec, layout, train_options(config, spec, layout));
  EXPECT_FALSE(multiplies(programs[0], spec));
  EXPECT_TRUE(multiplies(programs[1], spec));
}

plan::Profile profile_of_a_gpu() {
  plan::Profile profile{"some machine", "libtorch", {{1, 1, 1e-6, {}, {}, {}}}};
  plan::ProfileSection& section = profile.sections[0];
  section.device = {"cuda", "NVIDIA H100 80GB HBM3", int64_t{80} << 30};
  section.workspace_bytes = 1 << 20;
  section.units = {{"linear", "a", plan::Work::kForward, 1, 8e9, 10, 1e-3, 2e-6}};
  section.flats = {{"step", 1000, 1e-6, 3e-6}, {std::string(plan::kHostStep), 1000, 1e-6}};
  return profile;
}

class MachineCosts : public ::testing::Test {
 protected:
  std::string path() const { return folder_.path() + "/profile"; }

  std::string refusal(const Machine& machine) const {
    try {
      machine_costs(machine, path());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFailedPrecondition);
      return error.message();
    }
    return "";
  }

  testing::TemporaryFolder folder_;
};

TEST_F(MachineCosts, OfADeviceAreMeasuredOrNone) {
  Machine gpu = local_machine(1, {}, "cuda");
  EXPECT_THAT(refusal(gpu), HasSubstr("nothing was measured of [training] device = \"cuda\" ("));
  write_file_atomic(path(), plan::to_text(profile_of_a_gpu()));
  EXPECT_EQ(refusal(gpu), "");
  const auto costs = machine_costs(gpu, path());
  EXPECT_EQ(costs->source(), "profiled");
  EXPECT_EQ(costs->cluster().device.memory_bytes, int64_t{80} << 30);
  EXPECT_EQ(costs->workspace_bytes(true, 1), 1 << 20);
  EXPECT_TRUE(costs->launch_seconds("step", 1000));
  EXPECT_DOUBLE_EQ(plan::host_step_seconds(*costs, 2000), 1e-6 + 2e-6) << "at the rate that was measured";
  gpu.device.name = "NVIDIA L4";
  EXPECT_THAT(refusal(gpu), HasSubstr("nothing was measured of [training] device = \"cuda\", NVIDIA L4 ("));
  EXPECT_EQ(machine_costs(local_machine(1, {}), path())->source(), "analytic") << "of the cores nothing";
  EXPECT_EQ(profiled_device("cuda", path()).name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(profiled_device("composed", path()).memory_bytes, 0);
}

TEST(DeviceMemoryPlanned, IsAllButTheHosts) {
  std::array<int64_t, kMemoryKinds> bytes{};
  for (size_t k = 0; k < kMemoryKinds; ++k) bytes[k] = int64_t{1} << k;
  const int64_t data = bytes[static_cast<size_t>(MemoryKind::kData)],
                saved = bytes[static_cast<size_t>(MemoryKind::kCheckpoint)],
                states = bytes[static_cast<size_t>(MemoryKind::kOptimizer)];
  const plan::ProfiledDevice gpu{"cuda", "NVIDIA L4", 1};
  EXPECT_EQ(bytes_on(gpu, bytes, false), 255 - data - saved);
  EXPECT_EQ(bytes_on(gpu, bytes, true), 255 - data - saved - states);
  EXPECT_EQ(bytes_on({"composed", "a CPU"}, bytes, true), 255) << "all of it is the host's";
}

TEST(DeviceMemoryPlanned, MustFit) {
  const plan::ProfiledDevice device{"cuda", "NVIDIA L4", int64_t{24} << 30}, host;
  const auto refusal = [](int64_t planned, const plan::ProfiledDevice& on) {
    try {
      check_fits(planned, on);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
      return error.message();
    }
    return std::string();
  };
  EXPECT_EQ(refusal(device.memory_bytes, device), "");
  EXPECT_THAT(refusal(device.memory_bytes + (1 << 20), device),
              AllOf(HasSubstr("on NVIDIA L4, which has 24.0 GiB: lower"), HasSubstr("enable_cpu_offload")));
  const auto there = static_cast<int64_t>(total_memory_bytes());
  EXPECT_EQ(refusal(there, host), "");
  EXPECT_THAT(refusal(there + (int64_t{1} << 30), host),
              AllOf(HasSubstr("on this host, which has"), Not(HasSubstr("offload"))));
}

}  // namespace
}  // namespace furrow::train
