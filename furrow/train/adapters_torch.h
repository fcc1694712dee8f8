// What becomes of low-rank adapters at the end of a run: merged into the weights beside which they stand, and
// exported alone.
#pragma once

#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/plan/model_spec.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {

// Those of `parameters` (ModelState::parameters_of) that belong to adapters, and the network without them:
// W + scale * B A, formed in double, for each adapted W.
std::vector<NamedTensor> adapters_of(const plan::ModelSpec& spec, const std::vector<NamedTensor>& parameters);
std::vector<NamedTensor> merge_adapters(const plan::ModelSpec& spec,
                                        const std::vector<NamedTensor>& parameters);

// adapter_model.safetensors, with the names of Hugging Face's PEFT ("base_model.model.NAME.lora_A.weight"),
// and its adapter_config.json.
void export_adapters(const std::string& folder, const config::Config& config,
                     const std::vector<NamedTensor>& adapters);

}  // namespace furrow::train
