#include "furrow/data/fitted_values.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/data/open_mixture.h"
#include "furrow/data/open_text.h"
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

Preprocessing unnormalised(const Preprocessing& own) {
  Preprocessing fitted{{"mean", "0"}, {"std", "1"}};
  fitted.insert(own.begin(), own.end());  // keeps what is there
  return fitted;
}

namespace {

[[noreturn]] void refuse(const std::string& key, const std::string& asked, const std::string& kept) {
  throw Error(
      ErrorCode::kFailedPrecondition,
      fmt::format("[data] {} = {}, but the run goes on with what it fitted at its beginning, {}: leave the "
                  "key as it was, or train another run",
                  key, asked, kept));
}

bool reads_text(const DatasetOptions& options) {
  return options.kind == "text" ||
         (options.kind == "mixture" && std::ranges::any_of(options.mixture, [](const std::string& entry) {
            return parse_mixture_entry(entry).kind == "text";
          }));
}

void check_tokenizer(const DatasetOptions& options, const Preprocessing& kept, const std::string& kind) {
  if (!reads_text(options) || !is_tokenizer_kind(kind)) return;
  if (options.tokenizer != kind) refuse("tokenizer", options.tokenizer, "tokenizer = " + kind);
  if (options.tokenizer_path.empty()) return;
  Preprocessing asked;
  try {
    asked = tokenizer_from_file(options);
  } catch (const Error&) {  // gone or damaged: it is not read
    return;
  }
  for (const auto& [key, value] : asked) {
    const auto found = kept.find(key);
    if (found == kept.end() || found->second != value)
      refuse("tokenizer_path", options.tokenizer_path.string(), "another tokenizer of the kind " + kind);
  }
}

void check_normalised(const DatasetOptions& options, const Preprocessing& kept) {
  const bool normalised = kept != unnormalised(kept);
  if (normalised && !options.normalize) refuse("normalize", "false", "normalize = true");
  const bool own_values =
      options.kind == "pack" || options.kind == "mixture";  // whatever those of a pack are
  if (!normalised && options.normalize && !own_values) refuse("normalize", "true", "normalize = false");
}

}  // namespace

void check_kept(const DatasetOptions& options, const Preprocessing& kept) {
  const auto kind = kept.find("kind");
  if (kind == kept.end()) return;
  check_tokenizer(options, kept, kind->second);
  if (kind->second == "image") check_normalised(options, kept);
}

}  // namespace furrow::data
