// Hands out the parts of a table's files, to be parsed side by side.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "furrow/data/files.h"
#include "furrow/data/table_file.h"
#include "furrow/data/table_store.h"

namespace furrow::data {

// Whole rows of a CSV file, or a row group.
struct TablePart {
  uint64_t file = 0;
  uint64_t begin = 0, end = 0;  // as BlockPlace has them
  uint64_t weight = 0;          // bytes on the disk
  std::string rows = {};        // CSV, with the names of all columns
  std::shared_ptr<const std::vector<std::string>> names = {};
  std::shared_ptr<const ParquetTable> parquet = {};
  size_t group = 0;  // Parquet
};

// One file.  One thread at a time.
class PartsOfFile {
 public:
  virtual ~PartsOfFile() = default;
  virtual const std::vector<std::string>& columns() const = 0;  // all of them, by name
  // The next part that `store` does not have whole, in order; bytes on the disk of those it has are added to
  // `skipped`.  False at the end.
  // `between` is called now and then.
  virtual bool next(const TableStore& store, TablePart& part, uint64_t& skipped,
                    const std::function<void()>& between) = 0;
};

// A part of CSV has about `part_bytes`; `between` is called now and then.  Error{data_loss, not_found,
// invalid_argument}.
std::unique_ptr<PartsOfFile> open_parts(const std::filesystem::path& path, uint64_t file,
                                        const TableFormat& format, size_t part_bytes,
                                        const std::function<void()>& between);

}  // namespace furrow::data
