// Whether the settings of [comm] go together.
#pragma once

#include <string>

#include "furrow/config/comm.h"

namespace furrow::config {

// What is wrong with [comm] for its backend, "" where nothing is: settings of furrow's own wires mean nothing
// to another engine's.  Pure and thread safe.
std::string engine_objection(const Comm& comm);

}  // namespace furrow::config
