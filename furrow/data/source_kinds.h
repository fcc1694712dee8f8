// The rows of the table in sources.cc.  Each file opens one kind of data; see dataset.h for the contract.
#pragma once

#include "furrow/data/dataset.h"

namespace furrow::data {

// open_cifar.cc: the binary version of CIFAR-10, files `train_files` and `test_files` of the folder `path`.
Dataset open_cifar10(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_cifar10(const DatasetOptions& options);

// open_folder.cc: PNG, JPEG and WebP files in a folder per class.
Dataset open_folder(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_folder(const DatasetOptions& options);
bool is_image_folder(const std::filesystem::path& path);

// open_idx.cc: images and labels of training and test, plain or .gz, in the folder `path`.
Dataset open_idx(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_idx(const DatasetOptions& options);

// open_pack.cc: a folder that write_pack made of any other kind.
Dataset open_pack(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_pack(const DatasetOptions& options);
int readers_of(const DatasetOptions& options, bool streamed, bool decoded);
uint64_t pack_bytes(const DatasetOptions& options);  // of the records of all splits
bool pack_decodes(const DatasetOptions& options);    // does it hold image files?

// open_mixture.cc: the sets that `mixture` lists, each with a share of every epoch.
Dataset open_mixture(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_mixture(const DatasetOptions& options);

// open_table.cc: CSV or Parquet, plain or .gz.
Dataset open_table(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_table(const DatasetOptions& options);

// open_text.cc: one file, plain or .gz, or several (text_reader.h).
Dataset open_text(const DatasetOptions& options, const Preprocessing* preprocessing);
DataInfo probe_text(const DatasetOptions& options);

}  // namespace furrow::data
