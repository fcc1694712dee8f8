#include "furrow/models/network.h"

#include "furrow/base/error.h"
#include "furrow/models/block_memory.h"
#include "furrow/models/device_memory.h"
#include "furrow/models/lora.h"
#include "furrow/models/precision.h"
#include "furrow/plan/optimizer_spec.h"

namespace furrow::models {

plan::ModelSpec trained_network(const config::Config& config, const DataShape& data,
                                std::span<const Architecture> extra) {
  const config::Training& training = config.training;
  if (training.loss == "cross_entropy" && training.objective != "gan" && data.classes == 1) {
    throw Error(ErrorCode::kInvalidArgument,
                "the data have one class, and [training] loss = cross_entropy tells classes apart: add "
                "another class");
  }
  plan::ModelSpec spec = describe(config.model, data, extra);
  compute_in(precision_policy(config.training), &spec);
  reduce_in(precision_of(config.training.mixed_precision_reduce), &spec);
  apply_lora(config.lora, &spec);
  plan::apply_optimizer(config.optimizer, &spec);
  declare_scratch(&spec, training.local_batch_size);
  if (training.device != "cpu") declare_compositions(config, &spec);
  spec.averages_statistics = config.ema.decay > 0;
  for (plan::Unit& unit : spec.units) unit.offload = config.training.enable_cpu_offload;
  return spec;
}

}  // namespace furrow::models
