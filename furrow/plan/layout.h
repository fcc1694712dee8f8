// How ranks are arranged: one validated value with named axes, outermost first.
// What it holds must never change a result; it is not part of the recipe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace furrow::config {
struct Parallelism;
}

namespace furrow::plan {

enum class Axis : uint8_t { kPipeline, kReplicate, kShard, kContext, kTensor, kExpert };
inline constexpr std::array<std::string_view, 6> kAxisNames = {"pp", "dp_replicate", "dp_shard",
                                                               "cp", "tp",           "ep"};

class Layout {
 public:
  Layout() { degrees_.fill(1); }
  // Error{invalid_argument}, with the arithmetic written out, unless every degree is >= 1 and the product is
  // `world`.
  Layout(std::array<int, 6> degrees, int world);

  int degree(Axis axis) const { return degrees_[static_cast<size_t>(axis)]; }
  int world() const;
  int data_ranks() const { return degree(Axis::kReplicate) * degree(Axis::kShard); }  // that share the batch
  std::array<int, 6> coordinates(int rank) const;  // row-major over the axes
  int rank_of(const std::array<int, 6>& coordinates) const;
  std::string to_string() const;  // "pp1 dp_replicate1 dp_shard1 cp1 tp1 ep1"
  friend bool operator==(const Layout&, const Layout&) = default;

 private:
  std::array<int, 6> degrees_;
};

// From [parallelism]; -1 in data_parallel_shard_degree takes what is left of `world`.
// Error{invalid_argument}.
Layout layout_from(const config::Parallelism& parallelism, int world);

}  // namespace furrow::plan
