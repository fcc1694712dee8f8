#include "furrow/data/table_columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::data {
namespace {

using preprocess::TableEncoder;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

bool listed(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

ColumnUse fitted_use(const TableEncoder& encoder, const std::string& name) {
  if (encoder.target().name == name)
    return encoder.target().is_number ? ColumnUse::kNumber : ColumnUse::kCategory;
  for (const preprocess::TableFeature& feature : encoder.features()) {
    if (feature.name != name) continue;
    if (feature.is_date) return ColumnUse::kDate;
    return feature.is_number ? ColumnUse::kNumber : ColumnUse::kCategory;
  }
  return ColumnUse::kIgnored;
}

ColumnUse use_of(const TableRequest& request, const std::string& name) {
  const TableRules& rules = request.rules;
  if (listed(request.format.ignored, name)) return ColumnUse::kIgnored;
  if (request.encoder != nullptr) return fitted_use(*request.encoder, name);
  if (name == rules.target) return rules.number_target ? ColumnUse::kNumber : ColumnUse::kCategory;
  if (listed(rules.categorical, name)) return ColumnUse::kCategory;
  if (listed(rules.dates, name)) return ColumnUse::kDate;
  return listed(rules.numeric, name) ? ColumnUse::kNumber : ColumnUse::kAuto;
}

void check_known(const std::vector<std::string>& known, const std::vector<std::string>& names,
                 const char* what) {
  for (const std::string& name : names) {
    if (!listed(known, name)) invalid(unknown_name_message(what, name, known));
  }
}

void check_listed_once(const TableRules& rules) {
  if (listed(rules.dates, rules.target))
    invalid(fmt::format("data.date_columns lists the target '{}': a date is no target, write it as a number",
                        rules.target));
  const std::pair<const char*, const std::vector<std::string>*> lists[] = {
      {"categorical", &rules.categorical}, {"numeric", &rules.numeric}, {"date", &rules.dates}};
  for (size_t a = 0; a < std::size(lists); ++a) {
    for (size_t b = a + 1; b < std::size(lists); ++b) {
      for (const std::string& name : *lists[a].second) {
        if (listed(*lists[b].second, name))
          invalid(
              fmt::format("column '{}' is in data.{}_columns and in data.{}_columns: leave it in one of them",
                          name, lists[a].first, lists[b].first));
      }
    }
  }
}

// Before a long table is read.
void check_rules(const TableRequest& request, const std::vector<std::string>& known) {
  std::vector<std::string> used = known;
  std::erase_if(used, [&](const std::string& name) { return listed(request.format.ignored, name); });
  if (request.encoder != nullptr) {
    std::vector<std::string> needed{request.encoder->target().name};
    for (const auto& feature : request.encoder->features()) needed.push_back(feature.name);
    return check_known(used, needed, "column");
  }
  const TableRules& rules = request.rules;
  if (rules.target.empty()) invalid("data.target is empty: name the column to predict");
  check_known(used, {rules.target}, "column in data.target");
  check_known(used, rules.categorical, "column in data.categorical_columns");
  check_known(used, rules.numeric, "column in data.numeric_columns");
  check_known(used, rules.dates, "column in data.date_columns");
  check_listed_once(rules);
  if (used.size() == 1) invalid(fmt::format("there is no column besides the target '{}'", rules.target));
}

}  // namespace

TableColumns columns_of(const TableRequest& request, const std::vector<std::string>& known) {
  check_rules(request, known);
  TableColumns columns{.known = known, .names = {}, .uses = {}, .most_texts = {}};
  for (const std::string& name : known) {
    const ColumnUse use = use_of(request, name);
    if (use == ColumnUse::kIgnored) continue;
    const bool unbounded = use == ColumnUse::kCategory && name != request.rules.target;
    columns.names.push_back(name);
    columns.uses.push_back(use);
    columns.most_texts.push_back(unbounded ? SIZE_MAX : ColumnSummary::kMostCounted);
  }
  return columns;
}

}  // namespace furrow::data
