#include "furrow/data/table_file.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/data/files.h"

namespace furrow::data {
namespace {

constexpr const char* kLibrary = "libfurrow_tables.so";

// Beside the library or the program that holds this function, or in lib/ of its folder.
std::string library_path() {
  Dl_info self{};
  if (::dladdr(reinterpret_cast<const void*>(&library_path), &self) == 0) return kLibrary;
  for (const char* folder : {"/", "/../lib/", "/../lib64/"}) {
    const std::string path = parent_directory(self.dli_fname) + folder + kLibrary;
    if (path_exists(path)) return path;
  }
  return kLibrary;
}

ParseTableFunction load() {
  void* library = ::dlopen(library_path().c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("tables need {}, which cannot be loaded: {}", kLibrary, ::dlerror()));
  }
  auto* function = reinterpret_cast<ParseTableFunction>(::dlsym(library, kParseTableSymbol));
  if (function == nullptr) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} is not of this furrow: build or install both together", kLibrary));
  }
  return function;
}

std::string one_line(std::string text) {
  for (char& c : text) c = c == '\n' || c == '\r' ? ' ' : c;
  return text;
}

}  // namespace

TableContents parse_table(std::string_view bytes, bool parquet, const TableFormat& format) {
  static const ParseTableFunction parse = load();
  TableOutcome outcome;
  parse(bytes, parquet, format, &outcome);
  if (!outcome.failed) return std::move(outcome.contents);
  throw Error(outcome.damaged ? ErrorCode::kDataLoss : ErrorCode::kInvalidArgument,
              one_line(outcome.message));
}

TableContents read_table(const std::filesystem::path& path, const TableFormat& format) {
  const std::filesystem::path plain = path.extension() == ".gz" ? path.stem() : path;
  const Bytes file = read_contents(path);
  try {
    TableContents contents = parse_table(file.as_text(), plain.extension() == ".parquet", format);
    if (contents.rows == 0) throw Error(ErrorCode::kInvalidArgument, "there are no rows");
    return contents;
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
}

}  // namespace furrow::data
