#include "furrow/comm/group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

using ::furrow::testing::run_ranks;

TEST(Group, AllReduceAddsEveryRank) {
  for (const int n : {1, 2, 3, 8}) {
    run_ranks(n, [&](Communicator& communicator) {
      for (const size_t size : {size_t{1}, size_t{1000}, size_t{3'000'000}}) {
        std::vector<float> x(size, static_cast<float>(communicator.rank() + 1));
        communicator.world().all_reduce(std::span(x));
        const auto sum = static_cast<float>(n * (n + 1) / 2);
        EXPECT_EQ(x.front(), sum);
        EXPECT_EQ(x.back(), sum);
      }
    });
  }
}

TEST(Group, ShmAllReduce) {
  for (const int n : {2, 3, 4}) {
    ::furrow::testing::run_ranks_with(n, {.transport = "shm"}, [&](Communicator& communicator) {
      for (const size_t size : {size_t{1}, size_t{1000}, size_t{3'000'000}}) {
        std::vector<float> x(size, static_cast<float>(communicator.rank() + 1));
        communicator.world().all_reduce(std::span(x));
        const auto sum = static_cast<float>(n * (n + 1) / 2);
        EXPECT_EQ(x.front(), sum);
        EXPECT_EQ(x.back(), sum);
      }
    });
  }
}

}  // namespace
}  // namespace furrow::comm
