// Tied weights and the adapters beside them.  Internal to models.
#pragma once

#include <set>
#include <string>

#include "furrow/plan/model_spec.h"

namespace furrow::models {

// The earlier unit whose layers it runs once more, over another input: every parameter is tied to the one in
// its place there.  Null: it has layers of its own.
const plan::Unit* original_of(const plan::ModelSpec& spec, const plan::Unit& unit);

// Whether it is one of two tied weights, of different layers.
bool in_a_tie(const plan::ModelSpec& spec, const plan::Parameter& parameter);

// Tied weights of which one has an adapter and the other has not, or another one.
std::set<std::string> parted(const plan::ModelSpec& spec);

}  // namespace furrow::models
