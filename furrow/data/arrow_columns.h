// Columns of Arrow as those of table_file.h.  Of libfurrow_tables.so alone.
#pragma once

#include <string>
#include <string_view>

#include "furrow/data/table_file.h"

namespace arrow {
class Array;
class DataType;
}  // namespace arrow

namespace furrow::data {

// Ends a parse; does not leave the library.
struct TableFault {
  bool damaged;  // data_loss, else invalid_argument
  BadRow bad;
};
[[noreturn]] void fail(bool damaged, std::string message);

void append_text(TableColumn& column, std::string_view text);

// TableFault: the type of a column cannot be read; names both and says what to do.
void check_type(const std::string& name, const arrow::DataType& type);

// Numbers, days or texts of all rows.  REQUIRES: check_type(), validated.
TableColumn column_of(const std::string& name, const arrow::Array& array);

}  // namespace furrow::data
