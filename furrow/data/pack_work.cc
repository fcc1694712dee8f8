#include "furrow/data/pack_work.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/text.h"
#include "furrow/data/files.h"
#include "furrow/data/open_mixture.h"
#include "furrow/data/opening.h"
#include "furrow/data/pixel_sums_file.h"
#include "furrow/data/table_store.h"
#include "furrow/data/token_spool.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSourceFile = "source";

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

// Where the data lie: the keys of `lineage`, and their paths as they are.
std::map<std::string, fs::path> paths_of(const DatasetOptions& options) {
  if (options.kind != "mixture") return {{"source", options.path}};
  std::map<std::string, fs::path> paths;
  for (const std::string& text : options.mixture) {
    const MixtureEntry entry = parse_mixture_entry(text);
    paths["source " + entry.name] = options.path / entry.path;
  }
  return paths;
}

}  // namespace

void check_absent(const std::string& folder) {
  if (!path_exists(folder)) return;
  throw Error(ErrorCode::kAlreadyExists,
              fmt::format("{} is there already: name another folder, or remove it first", folder));
}

void check_apart(const std::string& folder, const DatasetOptions& options) {
  const fs::path pack = fs::weakly_canonical(fs::absolute(plain_folder(folder)));
  for (const auto& [key, path] : paths_of(options)) {
    if (!fs::is_directory(path)) continue;
    const fs::path source = fs::weakly_canonical(path);
    if (std::mismatch(source.begin(), source.end(), pack.begin(), pack.end()).first != source.end()) continue;
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{} would lie in {}, which it is made of: the pack would change its own source, and an "
                    "interrupted one could not go on; name a folder outside, such as {}",
                    folder, path.string(),
                    (source.parent_path() / (source.filename().string() + ".pack")).string()));
  }
}

std::string plain_folder(const std::string& folder) {
  return fs::path(folder + "/.").lexically_normal().parent_path().string();
}

PackWork::PackWork(const std::string& folder, const std::string& fingerprint)
    : working_(plain_folder(folder) + ".partial") {
  check_absent(folder);
  make_directories(working_);
  const std::string path = fmt::format("{}/{}", working_, kSourceFile);
  lock_ = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock_.open()) throw errno_error(errno, "write", path);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    if (reason != EWOULDBLOCK) {
      const Error error = errno_error(reason, "lock", path);
      throw Error(error.code(),
                  fmt::format("{}: nothing would keep out another process that writes the pack: "
                              "name an --out on a local disk, and move the pack when it is done",
                              error.what()));
    }
    throw Error(ErrorCode::kUnavailable,
                fmt::format("another process is writing {}: wait until it has ended, or name another --out",
                            working_));
  }
  keep_what_is_of(fingerprint);
}

void PackWork::keep_what_is_of(const std::string& fingerprint) {
  const std::string path = fmt::format("{}/{}", working_, kSourceFile);
  const std::string before = furrow::read_file(path);
  if (before == fingerprint) return;
  if (!before.empty()) {
    for (const std::string& name : names_in(working_)) {
      if (name != kSourceFile) remove_all(working_ + "/" + name);
    }
  }
  if (::ftruncate(lock_.get(), 0) != 0) throw errno_error(errno, "write", path);
  write_all(lock_.get(), std::as_bytes(std::span(fingerprint)), path);
}

PackWork::~PackWork() {
  try {
    if (path_exists(working_) && names_in(working_) == std::vector<std::string>{std::string(kSourceFile)})
      remove_all(working_);
  } catch (const std::exception&) {  // it may stay
  }
}

bool belongs_to_opening(std::string_view name) {
  return name == kSourceFile || name.starts_with(kSpoolPrefix) || name.ends_with(kRowsSuffix) ||
         name.ends_with(kSumsSuffix);
}

void remove_what_opening_left(const std::string& working) {
  for (const std::string& name : names_in(working)) {
    if (belongs_to_opening(name)) remove_all(working + "/" + name);
  }
}

std::string fingerprint_of(const fs::path& path, const WhileOpening& opening) {
  if (!fs::is_directory(path)) {
    const fs::path file = find_file(path);
    return file.empty() ? std::string() : stamp_of(file);
  }
  ListProgress progress(opening, "the files were listed");
  std::vector<std::string> stamps;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    stamps.push_back(stamp_of(entry.path()));
    progress.found();
  }
  std::ranges::sort(stamps);
  return to_hex(xxh3_128(join(stamps, "")));
}

std::map<std::string, std::string> sources_of(const DatasetOptions& options) {
  std::map<std::string, std::string> sources;
  for (const auto& [key, path] : paths_of(options))
    sources[key] = fs::absolute(path).lexically_normal().string();
  return sources;
}

std::string fingerprint_of(const DatasetOptions& options) {
  const TableRules& rules = options.table_rules;
  const TableFormat& format = options.table_format;
  JsonWriter json;
  const auto list = [&json](const std::vector<std::string>& texts) {
    json.begin_array();
    for (const std::string& text : texts) json.value(text);
    json.end_array();
  };
  json.begin_array();
  for (const auto& [name, path] : sources_of(options))
    json.value(name).value(fingerprint_of(fs::path(path), options.opening));
  json.value(options.kind).value(options.seed);
  json.value(options.validation_fraction).value(options.test_fraction);
  json.value(options.tokenizer).value(options.document_separator).value(options.document_tokens);
  json.value(options.image_size).value(options.resize_size).value(options.keep_files);
  list({options.train_images, options.train_labels, options.test_images, options.test_labels});
  for (const auto* texts :
       {&options.text_files, &options.train_files, &options.test_files, &options.mixture, &format.names,
        &format.ignored, &rules.categorical, &rules.numeric, &rules.dates, &rules.missing})
    list(*texts);
  json.value(options.table_train).value(options.table_test).value(std::string(1, format.delimiter));
  json.value(rules.target).value(rules.number_target).value(rules.trim).value(rules.ignore_unseen);
  json.value(std::string(1, rules.decimal));
  return to_hex(xxh3_128(json.end_array().text()));
}

}  // namespace furrow::data
