// Low-rank adapters as data: Hu et al., "LoRA: low-rank adaptation of large language models", 2022.
#pragma once

#include "furrow/config/lora.h"
#include "furrow/plan/model_spec.h"

namespace furrow::models {

// Freezes every parameter and puts adapters beside the linear layers that config.target_modules match:
// parameters "NAME.lora_A.weight" [rank, in], PyTorch's initial values of a linear layer, and
// "NAME.lora_B.weight" [out, rank], zeros, behind the unit's others; the unit's costs grow by theirs. Nothing
// where the rank is 0.  REQUIRES: the units have their precision (models/precision.h), and no rules of
// [optimizer] yet. Error{invalid_argument}: a pattern that matches no linear layer; the rank is not below
// both sizes of one.
void apply_lora(const config::Lora& config, plan::ModelSpec* spec);

}  // namespace furrow::models
