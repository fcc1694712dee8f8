// Writing a data set as a pack (storage/pack.h): in parallel, atomic, resumable.
//
// The work happens in `<folder>.partial`, which takes the name `folder` in one step when everything is
// durable. An interrupted writer leaves `.partial`; the next one with the same data keeps its whole shards,
// and what of a text is tokenised already (pack_work.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "furrow/base/clock.h"
#include "furrow/data/dataset.h"

namespace furrow::data {

struct PackRequest {
  std::string folder;       // must not exist
  std::string kind;         // of the data set
  std::string layout = {};  // that its records must have (records.h); empty: whichever they have
  std::map<std::string, std::string> lineage = {};
  std::string fingerprint = {};  // tells the source's files from others; pack_work.h
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

// Every split that `dataset` has.  Error{already_exists}: the folder; {invalid_argument}: another layout;
// {cancelled}: what is there is kept for the next call; {resource_exhausted}: disk full, the same;
// {failed_precondition}: an image file has changed meanwhile.
PackSummary write_pack(const Dataset& dataset, const PackRequest& request);

}  // namespace furrow::data
