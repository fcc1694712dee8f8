#include "furrow/config/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "furrow/base/error.h"

namespace furrow::config {
namespace {

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
  if (separator != std::string_view::npos) return std::string(reference.substr(separator + 2));
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}environment variable {} is not set: set it, or write ${{{}:-default}}", context,
                          name, name));
}

}  // namespace

std::string expand_environment(std::string_view text, const std::string& context) {
  std::string out;
  while (!text.empty()) {
    if (text.starts_with("$${")) {
      out += "${";
      text.remove_prefix(3);
    } else if (text.starts_with("${")) {
      const size_t end = text.find('}');
      if (end == std::string_view::npos) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("{}'{}' has no closing brace", context, text));
      }
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
