#include "furrow/models/network.h"

#include "furrow/models/lora.h"
#include "furrow/models/precision.h"
#include "furrow/plan/optimizer_spec.h"

namespace furrow::models {

plan::ModelSpec trained_network(const config::Config& config, const DataShape& data,
                                std::span<const Architecture> extra) {
  plan::ModelSpec spec = describe(config.model, data, extra);
  compute_in(precision_of(config.training.mixed_precision_param), &spec);
  reduce_in(precision_of(config.training.mixed_precision_reduce), &spec);
  apply_lora(config.lora, &spec);
  plan::apply_optimizer(config.optimizer, &spec);
  for (plan::Unit& unit : spec.units) unit.offload = config.training.enable_cpu_offload;
  return spec;
}

}  // namespace furrow::models
