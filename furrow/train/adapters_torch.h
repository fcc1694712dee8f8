// Low-rank adapters at the ends of a run: merged into the weights beside which they stand, written alone, and
// read again.  Files are those of Hugging Face's PEFT: adapter_model.safetensors with
// "base_model.model.NAME.lora_A.weight" (of a table "NAME.lora_embedding_A"), NAME as transformers has it
// where it knows the architecture, and adapter_config.json.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/plan/model_spec.h"
#include "furrow/storage/safetensors.h"
#include "furrow/train/model_state_torch.h"

namespace furrow::train {

// Of what a unit owns (ModelState::tensors_of), a tied weight included where it has an adapter: its adapters;
// the rest, with W + scale * B A, formed in double, in place of each adapted W.
std::vector<NamedTensor> adapters_of(const plan::Unit& unit, const std::vector<NamedTensor>& own);
std::vector<NamedTensor> without_adapters(const plan::Unit& unit, const std::vector<NamedTensor>& own);

// Tied weights that part when adapters are merged (models::merged_network), unit by unit in the order of the
// model.
class TiedWeights {
 public:
  explicit TiedWeights(const plan::ModelSpec& spec);  // which must outlive it
  // What the unit owns and, of weights that part, its own, as they were before the merge.  REQUIRES: the unit
  // that has a weight comes before those that are tied to it.
  std::vector<NamedTensor> with_parted(const plan::Unit& unit, std::vector<NamedTensor> own);

 private:
  std::map<std::string, std::string> owners_;  // by the name of the tied one
  std::map<std::string, at::Tensor> weights_;  // of owners
};

// Of all units, by our names.
void export_adapters(const std::string& folder, const plan::ModelSpec& spec, const config::Config& config,
                     const std::vector<NamedTensor>& adapters);

// Adapters, and the weights beside them that PEFT keeps there: of embeddings and heads.
class AdapterFile {
 public:
  // Error{failed_precondition}: another rank, alpha or form than `lora` and `spec` say, or tensors of layers
  // that have no adapters here; {not_found}: a missing one.
  AdapterFile(const std::string& folder, const config::Lora& lora, const plan::ModelSpec& spec);

  // Of every parameter of an adapter, and of the weights that the file has.
  bool has(const NamedRange& range) const { return names_.contains(range.name); }
  void read(const NamedRange& range) const;  // REQUIRES: has()

 private:
  void check_config(const std::string& folder, const config::Lora& lora) const;
  void name_tensors(const plan::ModelSpec& spec);
  void name_tensor(const Shape& shape, const std::string& own, const std::string& name);

  storage::SafetensorsFile file_;
  std::map<std::string, std::string> names_;  // in the file, by ours; of tied weights by their owner's
};

}  // namespace furrow::train
