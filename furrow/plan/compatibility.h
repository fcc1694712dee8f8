// Which axes programs can be compiled for: one table, with the reason and the nearest layout in the error.
#pragma once

#include <string>

#include "furrow/config/parallelism.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/model_spec.h"

namespace furrow::plan {

// Error{unimplemented} for an axis above 1 without generators and passes of its own.
void require_compilable(const Layout& layout);

// Why a model of more than one chain is not compiled for it; "" where it is.
std::string refuses_chains(const Layout& layout, const ModelSpec& spec);

// Error{unimplemented} with that reason, and what to set.
void require_compilable(const Layout& layout, const ModelSpec& spec);

// What each rank of the layout's tensor axis runs of a model (plan/tensor_cut.h).  Error{unimplemented} where
// it is more than one chain, or a unit cannot be cut so.
ModelSpec compilable_spec(const Layout& layout, const ModelSpec& whole);

// layout_from() a config, and only where programs can be compiled for it.
Layout compilable_layout(const config::Parallelism& parallelism, int world);

}  // namespace furrow::plan
