// The rows of the table in sources.cc.  Each file opens one kind of data; see dataset.h for the contract.
#pragma once

#include "furrow/data/dataset.h"

namespace furrow::data {

// open_idx.cc: train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-..., plain or .gz, in the folder
// `path`.
Dataset open_idx(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_idx(const DatasetOptions& options);

// open_text.cc: one file, plain or .gz.
Dataset open_chars(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_chars(const DatasetOptions& options);
Dataset open_bytes(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_bytes(const DatasetOptions& options);

}  // namespace furrow::data
