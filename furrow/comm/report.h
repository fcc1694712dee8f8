// How far a rank is, for people: what it tells the store, and what errors say of the rank at fault.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace furrow::comm {

// In front of how far the rank at fault was, in every error that tells it.
inline constexpr std::string_view kLastProgress = "last progress: ";

// What a rank was at, and since when (Clock::monotonic_ns).
struct Report {
  std::string text;  // "all_reduce 'loss' #12 of 1 float32 (sum) in group world, begun"; empty: nothing yet
  int64_t at_ns = 0;
};

std::string describe(const Report& report);  // "all_reduce ..., begun 0.3 s ago"; "none"

}  // namespace furrow::comm
