#include "furrow/config/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "furrow/base/error.h"

namespace furrow::config {
namespace {

constexpr int kDeepest = 8;  // defaults inside defaults

bool is_variable_name(std::string_view name) {
  const auto letter = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  return !name.empty() && std::all_of(name.begin(), name.end(), letter) &&
         std::isdigit(static_cast<unsigned char>(name[0])) == 0;
}

// `reference` is what stands between the braces.
std::string lookup(std::string_view reference, const std::string& context) {
  const size_t separator = reference.find(":-");
  const std::string name(reference.substr(0, separator));
  if (!is_variable_name(name)) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format(
            "{}'${{{}}}' names no environment variable: write ${{NAME}}, ${{NAME:-default}}, or $${{ for "
            "a plain ${{",
            context, reference));
  }
  const char* value = std::getenv(name.c_str());
  if (value != nullptr && *value != '\0') return value;
  if (separator != std::string_view::npos)
    return expand_environment(reference.substr(separator + 2), context);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}environment variable {} is not set: set it, or write ${{{}:-default}}", context,
                          name, name));
}

// Of the brace that closes the `${` that the text begins with.
size_t closing_brace(std::string_view text, const std::string& context) {
  int depth = 0;
  for (size_t i = 0; i < text.size() && depth <= kDeepest; ++i) {
    if (text.substr(i).starts_with("$${")) {
      i += 2;
    } else if (text.substr(i).starts_with("${")) {
      ++depth;
    } else if (text[i] == '}' && --depth == 0) {
      return i;
    }
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{}'{}' {}", context, text.substr(0, 100),
                  depth > kDeepest ? "has too many defaults inside each other" : "has no closing brace"));
}

}  // namespace

std::string expand_environment(std::string_view text, const std::string& context) {
  std::string out;
  while (!text.empty()) {
    if (text.starts_with("$${")) {
      out += "${";
      text.remove_prefix(3);
    } else if (text.starts_with("${")) {
      const size_t end = closing_brace(text, context);
      out += lookup(text.substr(2, end - 2), context);
      text.remove_prefix(end + 1);
    } else {
      out += text.front();
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace furrow::config
