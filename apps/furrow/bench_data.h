// `furrow bench data DIR`: how fast the samples of a data set come out of the loader.
#pragma once

#include "apps/furrow/command.h"

namespace furrow::app {

// The second word is a config, a run, or a data set itself, as for `furrow data pack`.  Prints a row per way
// of reading.
int bench_data(const Arguments& arguments);

}  // namespace furrow::app
