// How each column of a table is to be read, as far as that is known before its rows are.
#pragma once

#include <string>
#include <vector>

#include "furrow/data/table_reader.h"

namespace furrow::data {

// What the columns of a table are, by the names in its first file.
struct TableColumns {
  std::vector<std::string> known;  // all of them
  std::vector<std::string> names;  // without those that are ignored
  std::vector<ColumnUse> uses;
  std::vector<size_t> most_texts;
};

// Of a request, with all columns that its first file has.  Error{invalid_argument} names what the rules list
// and the file lacks, or what they list twice.
TableColumns columns_of(const TableRequest& request, const std::vector<std::string>& known);

}  // namespace furrow::data
