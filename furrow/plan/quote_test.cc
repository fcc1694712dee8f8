#include "furrow/plan/quote.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/testing/specs.h"
#include "furrow/plan/verify.h"

namespace furrow::plan {
namespace {

TEST(Quote, SumsFlopsOverInstructions) {
  const ModelSpec spec = testing::chain(3, 8);  // forward 128, backward 192 and 256 a sample and unit
  const Program program = compile_train(spec, Layout(), {{4, 4, 2}, {false, true, false}, 1});
  const Quote q = quote(program, spec);
  EXPECT_EQ(q.samples, 10);
  EXPECT_EQ(q.microbatches, 3);
  EXPECT_EQ(q.flops.forward, 10 * 3 * 128.0);
  EXPECT_EQ(q.flops.recompute, 10 * 128.0);
  EXPECT_EQ(q.flops.backward_input, 10 * 2 * 192.0);  // the first unit's input needs none
  EXPECT_EQ(q.flops.backward_weight, 10 * 3 * 256.0);
  EXPECT_EQ(q.flops.total(), 10 * (4 * 128.0 + 2 * 192.0 + 3 * 256.0));
  EXPECT_EQ(q.parameters, 3 * 72);
  EXPECT_EQ(q.instructions, static_cast<int64_t>(program.instructions.size()));
}

TEST(Quote, DescribesUnitsAndMemory) {
  const ModelSpec spec = testing::chain(2, 8);
  const Program program = compile_train(spec, Layout(), {{4}, {false, true}, 1});
  const Quote q = quote(program, spec);
  ASSERT_EQ(q.units.size(), 2u);
  EXPECT_EQ(q.units[0].name, "u0");
  EXPECT_EQ(q.units[0].parameters, 72);
  EXPECT_EQ(q.units[0].saved_bytes, 12);
  EXPECT_FALSE(q.units[0].recomputed);
  EXPECT_EQ(q.units[1].saved_bytes, 0);
  EXPECT_TRUE(q.units[1].recomputed);
  EXPECT_EQ(q.peak_bytes, verify(program, spec).peak_bytes);
  int64_t sum = 0;
  for (int64_t bytes : q.peak_bytes) sum += bytes;
  EXPECT_EQ(q.total_bytes(), sum);
}

TEST(Quote, RefusesAnInvalidProgram) {
  const ModelSpec spec = testing::chain(2, 8);
  Program program = compile_train(spec, Layout(), {{4}, {}, 1});
  program.instructions.pop_back();
  EXPECT_THROW(quote(program, spec), Error);
}

}  // namespace
}  // namespace furrow::plan
