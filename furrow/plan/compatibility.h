// Which axes programs can be compiled for: one table, with the reason and the nearest layout in the error.
#pragma once

#include "furrow/config/parallelism.h"
#include "furrow/plan/layout.h"

namespace furrow::plan {

// Error{unimplemented} for an axis above 1 without generators and passes of its own.
void require_compilable(const Layout& layout);

// layout_from() a config, and only where programs can be compiled for it.
Layout compilable_layout(const config::Parallelism& parallelism, int world);

}  // namespace furrow::plan
