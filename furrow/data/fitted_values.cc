#include "furrow/data/fitted_values.h"

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/storage/json.h"

namespace furrow::data {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 30;

std::string path_of(const std::string& run_folder) { return run_folder + "/" + std::string(kFittedFile); }

}  // namespace

std::string to_json(const Preprocessing& fitted) {
  JsonWriter json(2);
  json.begin_object();
  for (const auto& [key, value] : fitted) json.field(key, value);
  return json.end_object().text() + "\n";
}

Preprocessing parse_fitted(const std::string& text) {
  Preprocessing fitted;
  const storage::Json json = storage::parse_json(text);
  for (const auto& [key, value] : json.object()) fitted[key] = value.string();
  return fitted;
}

std::optional<Preprocessing> read_fitted(const std::string& run_folder) {
  const std::string path = path_of(run_folder);
  if (!path_exists(path)) return std::nullopt;
  try {
    return parse_fitted(read_file(path, kMostBytes));
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

void write_fitted(const std::string& run_folder, const Preprocessing& fitted) {
  write_file_atomic(path_of(run_folder), to_json(fitted));
}

}  // namespace furrow::data
