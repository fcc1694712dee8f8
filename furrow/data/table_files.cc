#include "furrow/data/table_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/files.h"
#include "furrow/data/table_reader.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

bool is_table_name(const fs::path& path) {
  const std::string ending = table_ending(path);
  return ending == ".csv" || ending == ".tsv" || is_parquet_name(path);
}

// Numbers in names count as numbers: part-10 comes behind part-9.
std::vector<std::pair<std::string, std::string>> sort_key(const std::string& name) {
  std::vector<std::pair<std::string, std::string>> key;  // text, then the digits behind it
  for (size_t at = 0; at < name.size();) {
    const size_t digits = std::min(name.size(), name.find_first_of("0123456789", at));
    const size_t end = std::min(name.size(), name.find_first_not_of("0123456789", digits));
    const std::string number = name.substr(digits, end - digits);
    const size_t zeros = std::min(number.size(), number.find_first_not_of('0'));
    const std::string value = number.substr(zeros);
    key.emplace_back(name.substr(at, digits - at), std::string(1, static_cast<char>(value.size())) + value);
    at = end;
  }
  return key;
}

// Without its digits.
std::string stem_of(const fs::path& file) {
  std::string stem = file.filename().string();
  std::erase_if(stem, [](unsigned char c) { return std::isdigit(c) != 0; });
  return stem;
}

// What the writers of parts leave beside them (_SUCCESS, .part.crc) is no table by its name.
template <class Wanted>
std::vector<fs::path> files_in(const fs::path& folder, const Wanted& wanted) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && !name.starts_with('.') && !name.starts_with('_') && wanted(name))
      files.push_back(entry.path());
  }
  std::ranges::sort(files, {}, [](const fs::path& file) { return sort_key(file.filename().string()); });
  return files;
}

// `first` and the one that is none of its parts; empty where all are.
std::vector<fs::path> strangers(const std::vector<fs::path>& files) {
  for (const fs::path& file : files) {
    if (stem_of(file) != stem_of(files[0])) return {files[0], file};
  }
  return {};
}

// The parts in a folder; `key`: what names a file of it instead.
std::vector<fs::path> parts_in(const fs::path& folder, const char* key) {
  std::vector<fs::path> files = files_in(folder, [](const std::string& name) { return is_table_name(name); });
  if (files.empty()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{} holds no .csv, .tsv or .parquet: name the table with [data] {}",
                            folder.string(), key));
  }
  const std::vector<fs::path> two = strangers(files);
  if (two.empty()) return files;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{} is a folder with {} and {}, whose names differ in more than digits and which are "
                  "therefore no parts of one table: name the table in it with [data] {}, such as {} or "
                  "part-*.parquet",
                  folder.string(), two[0].filename().string(), two[1].filename().string(), key,
                  two[0].filename().string()));
}

// What `name` stands for in a folder.
std::vector<fs::path> named_in(const fs::path& folder, const std::string& name, const char* key) {
  if (name.find('*') == std::string::npos) {
    const fs::path path = folder / name;
    return fs::is_directory(path) ? parts_in(path, key) : std::vector<fs::path>{require_file(path)};
  }
  const fs::path pattern = folder / name;
  const fs::path parent = pattern.parent_path();
  if (!fs::is_directory(parent))
    throw Error(ErrorCode::kNotFound, fmt::format("there is no folder {} ([data] {})", parent.string(), key));
  std::vector<fs::path> files = files_in(
      parent, [&](const std::string& file) { return glob_match(pattern.filename().string(), file); });
  if (!files.empty()) return files;
  throw Error(ErrorCode::kNotFound,
              fmt::format("no file of {} matches [data] {} = {}", parent.string(), key, name));
}

}  // namespace

std::vector<fs::path> train_files(const DatasetOptions& options) {
  if (!fs::is_directory(options.path)) return {require_file(options.path)};
  if (!options.table_train.empty()) return named_in(options.path, options.table_train, "train_table");
  return parts_in(options.path, "train_table");
}

std::vector<fs::path> test_files(const DatasetOptions& options) {
  if (options.table_test.empty()) return {};
  const fs::path folder = fs::is_directory(options.path) ? options.path : options.path.parent_path();
  return named_in(folder, options.table_test, "test_table");
}

bool is_table(const fs::path& path) {
  if (!fs::is_directory(path)) return is_table_name(path) && !find_file(path).empty();
  const std::vector<fs::path> files =
      files_in(path, [](const std::string& name) { return is_table_name(name); });
  return !files.empty() && strangers(files).empty();
}

}  // namespace furrow::data
