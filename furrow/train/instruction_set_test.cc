// Which instructions multiply is part of what bits depend on: runs and checkpoints name it, a resume on
// others says so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/storage/checkpoint.h"
#include "furrow/tensor/kernels/gemm_half.h"
#include "furrow/tensor/kernels/tiles.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using tensor::kernels::Bf16Products;
using tensor::kernels::Tiles;
using tensor::kernels::TilesScope;
using ::testing::HasSubstr;
using ::testing::Not;

class InstructionSet : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  void SetUp() override {
    const TilesScope tiles(Tiles::kEmulated);
    if (tensor::kernels::bf16_products() != Bf16Products::kTiles)
      GTEST_SKIP() << "emulated tiles need AVX-512";
    write_made_up_text();
    set_log_writer([this](std::string_view line) { log_ += line; });
  }
  void TearDown() override { set_log_writer({}); }

  observe::Summary on(Tiles tiles, const std::string& name, const std::string& steps, bool resume = false,
                      const std::string& precision = "bfloat16") {
    const TilesScope scope(tiles);
    log_.clear();
    return train_run(name,
                     tiny_gpt({"--training.steps", steps, "--training.mixed_precision_param", precision,
                               "--debug.deterministic", "auto"}),
                     resume);
  }

  std::string log_;
};

TEST_F(InstructionSet, OfTilesIsNamedAndMissedOnAResume) {
  const observe::Summary tiles = on(Tiles::kEmulated, "tiles", "6");
  EXPECT_EQ(tiles.arithmetic, "bfloat16 on AMX");
  EXPECT_EQ(tiles.instruction_set, "avx512+amx");
  const auto checkpoint = storage::newest_valid(run("tiles") + "/checkpoints");
  ASSERT_TRUE(checkpoint.has_value());
  EXPECT_EQ(checkpoint->manifest().instruction_set, "avx512+amx");
  const observe::Summary others = on(Tiles::kNone, "others", "6");
  EXPECT_NE(others.instruction_set, tiles.instruction_set);
  EXPECT_NE(weights("others"), weights("tiles")) << "a name of its own for bits of its own";

  on(Tiles::kEmulated, "tiles", "8", /*resume=*/true);
  EXPECT_THAT(log_, Not(HasSubstr("instruction set")));
  on(Tiles::kNone, "tiles", "10", /*resume=*/true);
  EXPECT_THAT(log_, HasSubstr("the checkpoint was written with instruction set avx512+amx, this is " +
                              others.instruction_set + ": the bits may differ"));
}

// Ranks of two kinds of machine: strict refuses them, auto says that the bits are not those of one process.
TEST_F(InstructionSet, ThatOneRankHasNotIsSaid) {
  const auto train_mixed = [&](const std::string& name, const std::string& deterministic,
                               const std::string& precision) {
    observe::Summary summary;
    testing::run_ranks(2, [&](comm::Communicator& communicator) {
      const TilesScope scope(communicator.rank() == 1 ? Tiles::kNone : Tiles::kEmulated);
      TrainRequest request;
      request.config = tiny_gpt({"--training.steps", "2", "--training.mixed_precision_param", precision,
                                 "--debug.deterministic", deterministic});
      if (communicator.rank() == 0) request.run_folder = run(name);
      request.communicator = &communicator;
      const observe::Summary own = train(request);
      if (communicator.rank() == 0) summary = own;
    });
    return summary.audit.value().deterministic;
  };
  const std::string odd = "rank 1 computes with instruction set avx512";
  EXPECT_THAT([&] { train_mixed("strict", "strict", "bfloat16"); },
              ::testing::ThrowsMessage<Error>(HasSubstr(odd)));
  EXPECT_FALSE(path_exists(run("strict"))) << "refused before the run has a folder";
  EXPECT_THAT(
      train_mixed("auto", "auto", "bfloat16"),
      ::testing::AllOf(HasSubstr("off: " + odd), HasSubstr(", rank 0 with instruction set avx512+amx")));
  EXPECT_THAT(train_mixed("same", "strict", "float32"), HasSubstr("on: ")) << "no tile multiplies float32";
}

// What no tile multiplies has the same bits and the same name on both.
TEST_F(InstructionSet, OfFloat32KnowsNoTiles) {
  EXPECT_EQ(on(Tiles::kEmulated, "tiles", "3", false, "float32").instruction_set, instruction_set());
  on(Tiles::kNone, "others", "3", false, "float32");
  EXPECT_EQ(weights("others"), weights("tiles"));
}

}  // namespace
}  // namespace furrow::train
