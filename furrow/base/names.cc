#include "furrow/base/names.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace furrow {
namespace {

// Of the names that a message lists: a model has thousands of tensors.
constexpr size_t kMostTold = 100;

// Optimal string alignment: insert, delete, replace and swap of neighbours cost one each.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      now[j] = std::min({replaced, last[j] + 1, now[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        now[j] = std::min(now[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string> known) {
  constexpr size_t kLongest = 64;
  if (name.size() > kLongest) return "";
  const std::string* best = nullptr;
  size_t best_distance = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    size_t distance = edit_distance(name, candidate);
    const bool part = name.size() >= 3 && candidate.find(name) != std::string::npos;
    if (part) distance = std::min<size_t>(distance, 1);
    if (distance < best_distance) {
      best = &candidate;
      best_distance = distance;
    }
  }
  return best == nullptr ? "" : *best;
}

std::string unknown_name_message(std::string_view what, std::string_view name,
                                 std::span<const std::string> known) {
  std::vector<std::string> sorted(known.begin(), known.end());
  std::sort(sorted.begin(), sorted.end());
  const std::string nearest = nearest_name(name, sorted);
  const std::string hint = nearest.empty() ? ":" : fmt::format(": did you mean '{}'?", nearest);
  const size_t told = std::min(sorted.size(), kMostTold);
  const std::string more = told < sorted.size() ? fmt::format(" and {} more", sorted.size() - told) : "";
  return fmt::format("unknown {} '{}'{} known: {}{}", what, name, hint,
                     fmt::join(std::span(sorted).first(told), ", "), more);
}

}  // namespace furrow
