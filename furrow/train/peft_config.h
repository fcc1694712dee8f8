// adapter_config.json, as PEFT writes it beside adapters.
#pragma once

#include <string>

namespace furrow::train {

struct PeftConfig {
  double rank = 0, alpha = 0;  // of every layer
};

// Error{data_loss}: no such file, a key that is missing or of another type, a rank or alpha that cannot be;
// {failed_precondition}: adapters of a form that is not computed here.
PeftConfig parse_peft_config(const std::string& json);

}  // namespace furrow::train
