// Writing a data set as a pack (storage/pack.h): in parallel, atomic, resumable.
//
// The work happens in `<folder>.partial`, which takes the name `folder` in one step when everything is
// durable. An interrupted writer leaves `.partial`; the next one with the same data keeps its whole shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "furrow/base/clock.h"
#include "furrow/data/dataset.h"

namespace furrow::data {

struct PackRequest {
  std::string folder;  // must not exist
  std::string kind;    // of the data set
  std::map<std::string, std::string> lineage = {};
  std::string fingerprint = {};  // tells the source's files from others; see fingerprint_of
  int threads = 1;               // shards written at once
  uint64_t shard_bytes = 0;      // of records, about; 0: 64 MiB, more where there would be over 1,024 shards
                                 // Error{invalid_argument}: over 65,536 of them
  // Told the bytes done and in all; by one thread at a time.
  std::function<void(uint64_t done, uint64_t total)> progress = {};
  const CancelToken* cancel = nullptr;
};

struct PackSummary {
  int64_t records = 0, shards = 0;
  int64_t kept = 0;  // shards that an interrupted writer had left
  uint64_t bytes = 0;
};

// Error{already_exists} unless `folder` can be made.
void check_absent(const std::string& folder);

// The data set that `options` describe, to be written as `request` says.  Neither a text nor a table has to
// fit into memory: tokens lie in a file without a name beside the pack, rows of tables in files of
// `<folder>.partial`, where an interrupted reading goes on.  `progress` as in WhileOpening.  Errors as
// open_dataset; after those that no later call can go on from nothing is left.
Dataset open_to_pack(const DatasetOptions& options, const PackRequest& request,
                     const std::function<void(uint64_t done, uint64_t total)>& progress = {});

// Every split that `dataset` has.  Error{already_exists}: the folder; {cancelled}: what is there is kept for
// the next call; {resource_exhausted}: disk full, the same.
PackSummary write_pack(const Dataset& dataset, const PackRequest& request);

// Names, sizes and times of change of the file, or of all files in the folder.
std::string fingerprint_of(const std::filesystem::path& path);

// Where the data lie, for `lineage`: "source" and its path, of a mixture "source NAME" of each set.
std::map<std::string, std::string> sources_of(const DatasetOptions& options);
// Of all of them, and of what the options say about what is read, fitted and held back; a tokenizer's file
// is in the fitted values.
std::string fingerprint_of(const DatasetOptions& options);

}  // namespace furrow::data
