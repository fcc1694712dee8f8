// For tests: sets that become packs.
#pragma once

#include "furrow/data/dataset.h"
#include "furrow/data/pack.h"
#include "furrow/data/pack_work.h"

namespace furrow::data::testing {

// As `furrow data pack` does it: what opening the set keeps lies beside the pack.
inline PackSummary pack_set(DatasetOptions options, const PackRequest& request) {
  const PackWork work(request.folder, request.fingerprint);
  options.opening.spool = work.folder();
  return write_pack(open_dataset(options), request);
}

}  // namespace furrow::data::testing
