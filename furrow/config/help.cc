#include "furrow/config/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/config/schema.h"

namespace furrow::config {
namespace {

std::string type_text(const Field& field) {
  if (!field.spec.choices.empty()) return join(split(field.spec.choices, '|'), ", ");
  constexpr std::string_view names[] = {
      "bool", "integer", "number", "string", "list of integers", "list of strings", "list of numbers"};
  return std::string(names[field.default_value.index()]);
}

std::string range_text(const FieldSpec& spec) {
  std::vector<std::string> parts;
  if (std::isfinite(spec.min)) parts.push_back((spec.above_min ? "> " : ">= ") + format_double(spec.min));
  if (std::isfinite(spec.max)) parts.push_back((spec.below_max ? "< " : "<= ") + format_double(spec.max));
  return join(parts, ", ");
}

// "optimizer.name = sgd or adamw"
std::string condition_text(const FieldSpec& spec) {
  std::vector<std::string> texts;
  for (const Condition& condition : conditions_of(spec.only_if))
    texts.push_back(fmt::format("{} {} {}", condition.key,
                                condition.sign == '~' ? std::string("with") : std::string(1, condition.sign),
                                join(condition.values, " or ")));
  return join(texts, ", or ");
}

std::string_view effect_text(Effect effect) {
  switch (effect) {
    case Effect::kRecipe:
      return "recipe";
    case Effect::kLayout:
      return "layout";
    case Effect::kOther:
      return "other";
  }
  return "other";
}

std::string all_sections() {
  Table table({{.title = "section"}, {.title = "keys"}, {.title = "what"}});
  for (const Section& section : schema()) {
    table.add_row({section.name, static_cast<int64_t>(section.fields.size()), section.doc});
  }
  return table.text() +
         "\nfurrow help config SECTION lists its keys; every key is also an option: --section.key VALUE\n";
}

std::string one_section(const Section& section) {
  Table table({{.title = "key"}, {.title = "type"}, {.title = "default"}, {.title = "what"}});
  for (const Field& field : section.fields) {
    table.add_row({field.key, type_text(field), to_toml(field.default_value), std::string(field.spec.doc)});
  }
  return fmt::format("[{}]  {}\n\n{}", section.name, section.doc, table.text());
}

std::string one_field(const Field& field) {
  std::string text = fmt::format("{}\n  {}\n  type     {}\n", field.name(), field.spec.doc, type_text(field));
  if (const std::string range = range_text(field.spec); !range.empty())
    text += fmt::format("  range    {}\n", range);
  text += fmt::format("  default  {}\n", to_toml(field.default_value));
  if (!field.spec.only_if.empty()) text += fmt::format("  only if  {}\n", condition_text(field.spec));
  return text + fmt::format("  changes  {}\n", effect_text(field.spec.effect));
}

// The one field with this bare key, null when there is none or several.
const Field* by_bare_key(std::string_view key) {
  const Field* found = nullptr;
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      if (field.key != key) continue;
      if (found != nullptr) return nullptr;
      found = &field;
    }
  }
  return found;
}

std::string markdown_row(const Field& field) {
  std::string what(field.spec.doc);
  if (!field.spec.only_if.empty()) what += fmt::format(" Only with {}.", condition_text(field.spec));
  std::string type = type_text(field);
  if (const std::string range = range_text(field.spec); !range.empty()) type += " " + range;
  return fmt::format("| `{}` | {} | `{}` | {} | {} |\n", field.key, type, to_toml(field.default_value),
                     effect_text(field.spec.effect), what);
}

}  // namespace

std::string help(std::string_view name) {
  if (name.empty()) return all_sections();
  if (const Field* field = find_field(name)) return one_field(*field);
  std::vector<std::string> known;
  for (const Section& section : schema()) {
    if (section.name == name) return one_section(section);
    known.push_back(section.name);
    for (const Field& field : section.fields) {
      if (name.find('.') != std::string_view::npos || field.key.size() > 3) known.push_back(field.name());
    }
  }
  if (const Field* field = by_bare_key(name)) return one_field(*field);
  const std::string nearest = nearest_name(name, known);
  throw Error(ErrorCode::kNotFound,
              fmt::format("no section or key '{}'{}: `furrow help config` lists the sections", name,
                          nearest.empty() ? "" : fmt::format(": did you mean '{}'?", nearest)));
}

std::string reference_markdown() {
  std::string text =
      "# Configuration\n\n"
      "Generated from the declarations in `furrow/config/`: `furrow help config --markdown > "
      "docs/config.md`.\n\n"
      "A configuration is a TOML file. Every key is also an option of the command line, `--section.key "
      "VALUE` or "
      "`--section.key=VALUE`, which wins over the file. Strings may hold `${NAME}` and `${NAME:-default}`, "
      "taken from "
      "the environment; a default may hold others, and `$${` is a plain `${`.\n\n"
      "The column *changes* says what a key is part of: *recipe* changes the mathematics, is kept in "
      "checkpoints, and "
      "another value on resume is named (refused with `debug.deterministic = \"strict\"`); *layout* changes "
      "where and in "
      "which order the same mathematics happens; *other* neither.\n";
  for (const Section& section : schema()) {
    text +=
        fmt::format("\n## [{}]\n\n{}\n\n| key | type | default | changes | what |\n|---|---|---|---|---|\n",
                    section.name, section.doc);
    for (const Field& field : section.fields) text += markdown_row(field);
  }
  return text;
}

}  // namespace furrow::config
