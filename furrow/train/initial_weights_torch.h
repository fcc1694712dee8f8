// What a model starts from in place of its initial values.
#pragma once

#include <string>

#include "furrow/config/config.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {

// Parameters and statistics only, from a checkpoint folder or an artefact ("model/"), by name and shape; with
// `average` the average of the parameters, where a checkpoint has one.  Adapters that it lacks keep their
// initial values, and so does a teacher.
void load_parameters(const std::string& path, ModelState& model, bool average = false);

// A teacher's parameters and statistics (models/teacher.h), from an artefact.  Error{not_found}, {data_loss}.
void load_teacher(const std::string& path, ModelState& model);

// What [checkpoint] initial_load_path and [lora] adapter_path name, where they are set.  Of adapters: Error
// {failed_precondition} where they are of another rank, alpha or kind, {not_found} where one is missing.
void load_initial(const config::Config& config, ModelState& model);

}  // namespace furrow::train
