// Columns that would become categories or numbers though they hardly are any: told while a table is fitted.
#pragma once

#include "furrow/data/table_reader.h"

namespace furrow::data {

// Are texts in the column taken for mistakes?  Nine in ten are numbers, or all but one of five and more.
bool nearly_all_numbers(const ColumnSummary& summary);

// Of column `c`, an input.  Error{invalid_argument} names file, column and what to do, unless data.*_columns
// list it: no value in any row; texts that are nearly all dates, or numbers with other decimals, thousands or
// a unit; texts that are different in nearly every row, as names and ids are.  A warning: whole numbers that
// are.
void check_traps(const TableRead& table, size_t c, const TableRules& rules);

// Of the target, where it is a class: texts that are nearly all numbers in some other form.
void check_target_traps(const TableRead& table, size_t c, const TableRules& rules);

}  // namespace furrow::data
