#include "furrow/data/table_file.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"

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

const TableFunctions& load() {
  void* library = ::dlopen(library_path().c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("tables need {}, which cannot be loaded: {}", kLibrary, ::dlerror()));
  }
  auto* get = reinterpret_cast<GetTableFunctions>(::dlsym(library, kTableFunctionsSymbol));
  const TableFunctions* const functions = get == nullptr ? nullptr : get();
  if (functions == nullptr || functions->version != kTableFunctionsVersion) {
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} is not of this furrow: build or install both together", kLibrary));
  }
  return *functions;
}

const TableFunctions& functions() {
  static const TableFunctions& loaded = load();
  return loaded;
}

std::string one_line(std::string text) {
  for (char& c : text) c = c == '\n' || c == '\r' ? ' ' : c;
  return text;
}

void check(const TableFailure& failure) {
  if (!failure.failed) return;
  throw Error(failure.damaged ? ErrorCode::kDataLoss : ErrorCode::kInvalidArgument,
              one_line(failure.bad.message));
}

class OpenParquet : public ParquetTable {
 public:
  explicit OpenParquet(std::unique_ptr<ParquetReader> reader) : reader_(std::move(reader)) {}
  const std::vector<std::string>& names() const override { return reader_->names(); }
  const std::vector<int64_t>& group_rows() const override { return reader_->group_rows(); }
  void read(size_t group, int64_t most, bool columns_at_once,
            const std::function<bool(TableContents&)>& take) const override {
    TableFailure failure;
    reader_->read(group, most, columns_at_once, take, &failure);
    check(failure);
  }

 private:
  std::unique_ptr<ParquetReader> reader_;
};

// A file through an Expander.
class Expanding {
 public:
  Expanding(std::unique_ptr<Expander> expander, std::function<size_t(std::span<std::byte>)> read)
      : expander_(std::move(expander)), read_(std::move(read)) {}

  size_t read(std::span<std::byte> out) {
    std::span<std::byte> rest = out;
    while (!rest.empty()) {
      if (in_.empty()) in_ = std::span(memory_).first(read_(memory_));
      if (in_.empty() && frame_ended_) break;
      const size_t before = in_.size() + rest.size();
      step(rest);
      if (!frame_ended_ && in_.size() + rest.size() == before)
        throw Error(ErrorCode::kDataLoss, "the compressed data are cut short");
    }
    return out.size() - rest.size();
  }

 private:
  void step(std::span<std::byte>& rest) {
    TableFailure failure;
    if (frame_ended_) expander_->begin_frame(&failure);
    check(failure);
    frame_ended_ = expander_->expand(in_, rest, &failure);
    check(failure);
  }

  std::unique_ptr<Expander> expander_;
  std::function<size_t(std::span<std::byte>)> read_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(size_t{1} << 16);
  std::span<const std::byte> in_;  // of the memory
  bool frame_ended_ = false;
};

}  // namespace

std::function<size_t(std::span<std::byte>)> open_expander(const std::string& codec,
                                                          std::function<size_t(std::span<std::byte>)> read) {
  TableFailure failure;
  auto expander = functions().open_expander(codec, &failure);
  if (failure.failed) throw Error(ErrorCode::kFailedPrecondition, one_line(failure.bad.message));
  const auto expanding = std::make_shared<Expanding>(std::move(expander), std::move(read));
  return [expanding](std::span<std::byte> out) { return expanding->read(out); };
}

TableContents parse_csv(const CsvRows& rows, BadRow* bad) {
  TableContents contents;
  TableFailure failure;
  functions().parse_csv(rows, &contents, &failure);
  *bad = failure.bad;
  check(failure);
  return contents;
}

std::unique_ptr<ParquetTable> open_parquet(uint64_t bytes, ReadAt read,
                                           const std::vector<std::string>& ignored) {
  TableFailure failure;
  auto reader = functions().open_parquet(bytes, std::move(read), ignored, &failure);
  check(failure);
  return std::make_unique<OpenParquet>(std::move(reader));
}

}  // namespace furrow::data
