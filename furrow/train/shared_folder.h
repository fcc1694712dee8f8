// Do the ranks see one folder?  Hosts may have a path of that name each on a disk of its own, and a relative
// path is another one wherever a launcher starts its ranks in other folders.  Torch-free.
#pragma once

#include <string>

#include "furrow/train/rank_context.h"

namespace furrow::train {

// Every rank writes a small file of a name that nobody else uses (`tag`, the same on all) into `folder`, or
// into the one that it is to be made in, and rank 0 looks for them all.  Nothing stays.  Every rank calls it.
// Error{failed_precondition} on all of them, naming the rank whose files do not come there, and the remedy;
// that of a rank that cannot write.
void require_shared_folder(const RankContext& rank, const std::string& folder, const std::string& tag);

}  // namespace furrow::train
