// What the columns of a table are: numbers or categories, and the values fitted on the rows to train on.
#pragma once

#include "furrow/data/row_set.h"
#include "furrow/data/table_reader.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::data {

class ReaderPool;
struct WhileOpening;

// Fitted on the rows `train` (names of categories and labels on all rows); exact, whatever the blocks and the
// threads.  Error{invalid_argument} names the file, the column and the row (from 1): a text among numbers,
// more than 1,000 categories in a column that is not listed as categorical, a missing target; {cancelled}.
preprocess::TableEncoder fit_table(const TableRead& table, const TableRules& rules, const RowSet& train,
                                   ReaderPool& pool, const WhileOpening& opening);

}  // namespace furrow::data
