#include "furrow/preprocess/class_names.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/text.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::preprocess {

std::string names_text(const std::vector<std::string>& names) {
  std::vector<std::string> lines;
  for (const std::string& name : names) lines.push_back(to_line(name));
  return join(lines, "\n");
}

std::vector<std::string> parse_names(std::string_view text) {
  if (text.empty()) return {};
  std::vector<std::string> names;
  for (const std::string& line : split(text, '\n')) names.push_back(from_line(line, kClassNames));
  return names;
}

std::vector<std::string> class_names(const State& state) {
  const auto kind = state.find("kind");
  if (kind != state.end() && kind->second == "table") return load_as<TableEncoder>(state)->target().labels;
  const auto found = state.find(kClassNames);
  return found == state.end() ? std::vector<std::string>() : parse_names(found->second);
}

std::optional<std::string> class_difference(const std::vector<std::string>& there,
                                            const std::vector<std::string>& here) {
  if (there.empty() || here.empty()) return std::nullopt;
  const auto [before, own] = std::ranges::mismatch(there, here);
  if (own == here.end()) return std::nullopt;
  const auto at = own - here.begin();
  if (before == there.end()) return fmt::format("class {}, '{}', is here alone", at, *own);
  return fmt::format("class {} is '{}' there and '{}' here", at, *before, *own);
}

}  // namespace furrow::preprocess
