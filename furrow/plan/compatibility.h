// Which axes programs can be compiled for: one table, with the reason and the nearest layout in the error.
#pragma once

#include "furrow/config/parallelism.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"

namespace furrow::plan {

// Error{unimplemented} for an axis above 1 without generators and passes of its own.
void require_compilable(const Layout& layout);

// The same for a model that is more than one chain of units.
void require_compilable(const Layout& layout, const ModelSpec& spec);

// What each rank of the layout's tensor axis runs of a model (plan/tensor_cut.h).  Error{unimplemented} where
// it is more than one chain, or a unit cannot be cut so.
ModelSpec compilable_spec(const Layout& layout, const ModelSpec& whole);

// layout_from() a config, and only where programs can be compiled for it.
Layout compilable_layout(const config::Parallelism& parallelism, int world);

}  // namespace furrow::plan
