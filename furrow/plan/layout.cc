#include "furrow/plan/layout.h"

#include <fmt/format.h>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

// "dp_shard 2 x tp 2 = 4": axes of degree 1 are left out unless all are.
std::string arithmetic(const std::array<int, 6>& degrees, int64_t product) {
  std::string text;
  for (size_t i = 0; i < degrees.size(); ++i) {
    if (degrees[i] == 1) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : " x ", kAxisNames[i], degrees[i]);
  }
  return text.empty() ? "every axis 1 = 1" : fmt::format("{} = {}", text, product);
}

constexpr int64_t kMostRanks = 1 << 24;

int64_t product_of(const std::array<int, 6>& degrees) {
  int64_t product = 1;
  for (size_t i = 0; i < degrees.size(); ++i) {
    if (degrees[i] < 1) {
      fail(fmt::format("axis {} has degree {}: it must be at least 1", kAxisNames[i], degrees[i]));
    }
    product *= degrees[i];
    if (product > kMostRanks) fail(fmt::format("the degrees multiply to more than {} ranks", kMostRanks));
  }
  return product;
}

}  // namespace

Layout::Layout(std::array<int, 6> degrees, int world) : degrees_(degrees) {
  const int64_t product = product_of(degrees);
  if (product != world)
    fail(
        fmt::format("{}, but the world is {}: degrees multiply to the number of ranks, which --nproc or the "
                    "launcher gives",
                    arithmetic(degrees, product), world));
}

int Layout::world() const {
  int product = 1;
  for (int degree : degrees_) product *= degree;
  return product;
}

std::array<int, 6> Layout::coordinates(int rank) const {
  FURROW_CHECK(rank >= 0 && rank < world(), fmt::format("rank {} of {}", rank, world()));
  std::array<int, 6> result{};
  for (size_t i = degrees_.size(); i-- > 0;) {
    result[i] = rank % degrees_[i];
    rank /= degrees_[i];
  }
  return result;
}

int Layout::rank_of(const std::array<int, 6>& coordinates) const {
  int rank = 0;
  for (size_t i = 0; i < degrees_.size(); ++i) {
    FURROW_CHECK(coordinates[i] >= 0 && coordinates[i] < degrees_[i],
                 fmt::format("{} {} of {}", kAxisNames[i], coordinates[i], degrees_[i]));
    rank = rank * degrees_[i] + coordinates[i];
  }
  return rank;
}

std::string Layout::to_string() const {
  std::string text;
  for (size_t i = 0; i < degrees_.size(); ++i) {
    text += fmt::format("{}{}{}", i == 0 ? "" : " ", kAxisNames[i], degrees_[i]);
  }
  return text;
}

}  // namespace furrow::plan
