// The functions behind the rows of algorithms/table.cc, and the parts that algorithms share.
#pragma once

#include "furrow/comm/call.h"

namespace furrow::comm {

bool fits_always(const Call& call);
bool always_canonical(const Call& call);
void run_direct(Call& call);
bool fits_flat(const Call& call);
void run_flat(Call& call);

}  // namespace furrow::comm
