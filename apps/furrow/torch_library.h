// libfurrow_torch.so, opened when a command needs it.  Loading libtorch takes about a third of a second, so
// that a command which will need it starts that first, on a thread of its own.  Thread safe.
#pragma once

#include "furrow/train/entry.h"

namespace furrow::app {

void start_loading_torch();  // returns at once; a second call does nothing

// Waits until it is loaded.  Error{not_found}: there is no such library; Error{failed_precondition}: it
// cannot be loaded, or is of another version.
const train::EntryPoints& torch_entry_points();

bool torch_library_requested();  // whether start_loading_torch() was called in this process

}  // namespace furrow::app
