#include "furrow/preprocess/difference.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "furrow/base/text.h"
#include "furrow/preprocess/class_names.h"

namespace furrow::preprocess {
namespace {

constexpr size_t kShown = 40;  // characters of a value

// The first word of `text`, which is cut off with the space behind it.
std::string_view take_word(std::string_view& text) {
  const size_t end = std::min(text.find(' '), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

bool is_whole(std::string_view word) {
  return word.find_first_not_of("0123456789-") == std::string_view::npos;
}

bool same_word(std::string_view first, std::string_view second) {
  double a = 0, b = 0;
  if (first == second) return true;
  if (is_whole(first) && is_whole(second)) return false;  // counts, code points: nothing that was fitted
  if (!parse_double(first, a) || !parse_double(second, b)) return false;
  return std::abs(a - b) <= std::max(0.05 * std::max(std::abs(a), std::abs(b)), 0.01);
}

bool same_value(std::string_view first, std::string_view second) {
  if (first == second) return true;
  while (!first.empty() && !second.empty()) {
    if (!same_word(take_word(first), take_word(second))) return false;
  }
  return first.empty() && second.empty();
}

std::string shown(const State& state, const std::string& key) {
  const auto found = state.find(key);
  if (found == state.end()) return "nothing";
  return found->second.size() <= kShown ? json_quote(found->second)
                                        : json_quote(found->second.substr(0, kShown)) + "...";
}

}  // namespace

std::optional<Difference> difference(const State& first, const State& second) {
  std::set<std::string> keys;
  for (const State* const state : {&first, &second}) {
    for (const auto& [key, value] : *state) keys.insert(key);
  }
  keys.erase(kClassNames);    // exact words, and earlier versions had none
  keys.erase(kClassWeights);  // of the loss: no input is prepared by them
  std::vector<std::string> ordered(keys.begin(), keys.end());
  std::ranges::stable_partition(ordered, [](const std::string& key) { return key == "kind"; });
  for (const std::string& key : ordered) {
    const auto a = first.find(key), b = second.find(key);
    const bool same = a != first.end() && b != second.end() && same_value(a->second, b->second);
    if (!same) return Difference{key, shown(first, key), shown(second, key)};
  }
  return std::nullopt;
}

}  // namespace furrow::preprocess
