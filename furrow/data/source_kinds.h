// The rows of the table in sources.cc.  Each file opens one kind of data; see dataset.h for the contract.
#pragma once

#include "furrow/data/dataset.h"

namespace furrow::data {

// open_idx.cc: images and labels of training and test, plain or .gz, in the folder `path`.
Dataset open_idx(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_idx(const DatasetOptions& options);

// open_text.cc: one file, plain or .gz.
Dataset open_text(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_text(const DatasetOptions& options);

}  // namespace furrow::data
