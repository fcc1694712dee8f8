#include "furrow/config/difference.h"

#include <algorithm>
#include <vector>

namespace furrow::config {
namespace {

constexpr size_t kLongest = 200;

struct Setting {
  std::string_view section, key, value;
  bool same_key(const Setting& other) const { return section == other.section && key == other.key; }
};

std::vector<Setting> settings_of(std::string_view text) {
  std::vector<Setting> settings;
  std::string_view section;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.size() > 2 && line.front() == '[' && line.back() == ']')
      section = line.substr(1, line.size() - 2);
    const size_t equals = line.find(" = ");
    if (equals != std::string_view::npos)
      settings.push_back({section, line.substr(0, equals), line.substr(equals + 3)});
  }
  return settings;
}

std::string shown(std::string_view text) {
  std::string result(text.substr(0, kLongest));
  std::ranges::replace_if(result, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text.size() > kLongest ? result + "..." : result;
}

}  // namespace

std::optional<Difference> first_difference(std::string_view a, std::string_view b) {
  const std::vector<Setting> left = settings_of(a), right = settings_of(b);
  const auto find = [](const std::vector<Setting>& all, const Setting& one) {
    return std::ranges::find_if(all, [&](const Setting& other) { return other.same_key(one); });
  };
  const auto made = [](const Setting& key, std::string_view one, std::string_view other) {
    return Difference{shown(std::string(key.section) + "." + std::string(key.key)), shown(one), shown(other)};
  };
  for (const Setting& setting : left) {
    const auto other = find(right, setting);
    const std::string_view value = other == right.end() ? "nothing" : other->value;
    if (value != setting.value) return made(setting, setting.value, value);
  }
  for (const Setting& setting : right) {
    if (find(left, setting) == left.end()) return made(setting, "nothing", setting.value);
  }
  return std::nullopt;
}

}  // namespace furrow::config
