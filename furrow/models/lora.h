// Low-rank adapters as data: Hu et al., "LoRA: low-rank adaptation of large language models", 2022.
#pragma once

#include <string>

#include "furrow/config/lora.h"
#include "furrow/config/model.h"
#include "furrow/plan/model_spec.h"

namespace furrow::models {

// Freezes every parameter and puts adapters beside the layers that config.target_modules match: two
// parameters each behind the unit's others, whose shapes, names and initial values are those of Hugging
// Face's PEFT; the unit's costs grow by theirs.
//   linear, recurrent   NAME.lora_A.weight [rank, in], as a linear layer starts; NAME.lora_B.weight [out,
//                       rank], zeros
//   convolution         NAME.lora_A.weight [rank, channels, k, k]; NAME.lora_B.weight [out, rank, 1, 1]
//   table               NAME.lora_embedding_A [rank, rows], zeros; NAME.lora_embedding_B [width, rank],
//                       N(0, 1); without dropout
// A table, or a head tied to one, is adapted where a pattern names it: "*" alone does not count, nor does it
// for a layer with a size that the rank is not below.  A unit that runs the layers of another once more, as a
// discriminator over what is generated, has those of the other, tied or borrowed as the layers are.  Nothing
// where the rank is 0.  REQUIRES: the units have their precision (models/precision.h), and no rules of
// [optimizer] yet. Error{invalid_argument}: a pattern that matches no such layer; the rank is not below both
// sizes of one that is named, or of any; dropout before a recurrent layer; tied weights that the architecture
// cannot part.
void apply_lora(const config::Lora& config, plan::ModelSpec* spec);

// The layers that "*" leaves out for their sizes, as a line; "" where there is none.
std::string left_out_by_star(const config::Lora& config, const plan::ModelSpec& spec);

// The network when its adapters are merged: without them, and tied weights apart where one of them has an
// adapter.  Costs stay.
plan::ModelSpec merged_network(plan::ModelSpec spec);
// Its [model], of the one that `spec` was described from.
config::Model merged_model(config::Model model, const plan::ModelSpec& spec);

}  // namespace furrow::models
