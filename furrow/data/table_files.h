// Which files a table is made of.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"

namespace furrow::data {

// Those to train on, as [training] dataset_path and [data] train_table say, in the order of their rows: a
// file; or, of a folder, the file in it that is named, those that match a pattern with * (part-*.parquet), or
// those of a folder in it; without a name, all tables of the folder, which must be parts of one: their names
// differ in digits alone.  Error{not_found, invalid_argument}.
std::vector<std::filesystem::path> train_files(const DatasetOptions& options);

// The same for the test, beside it; none without [data] test_table.
std::vector<std::filesystem::path> test_files(const DatasetOptions& options);

// A file, or a folder whose tables are parts of one.
bool is_table(const std::filesystem::path& path);

}  // namespace furrow::data
