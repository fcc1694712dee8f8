// The artefact: a model as everything but training knows it.
//
//   model/model.safetensors   the parameters by name
//         model.toml          architecture, inputs and outputs, preprocessing, labels, lineage, digest of the
//         parameters
//
// Strings and shapes only: what an architecture or a preprocessor means, its owner knows.
// docs/formats/artefact.md describes the bytes.  Functions are thread safe for different folders.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/hash.h"
#include "furrow/storage/safetensors.h"

namespace furrow::storage {

struct TensorPort {
  std::string name;  // "images"
  DType dtype = DType::kF32;
  Shape shape;  // -1: any, such as the batch
  friend bool operator==(const TensorPort&, const TensorPort&) = default;
};

struct Artefact {
  std::string architecture;  // "convnet"
  std::string model;         // the [model] table of the resolved configuration: "key = value" lines of TOML
  std::vector<TensorPort> inputs;
  std::vector<TensorPort> outputs;
  std::map<std::string, std::string> preprocessing;  // fitted values
  std::vector<std::string> labels;                   // of the classes; may be empty
  std::map<std::string, std::string> lineage;        // run, step, commit, ...
  Hash128 digest;  // XXH3-128 of model.safetensors; set by writing and reading
  friend bool operator==(const Artefact&, const Artefact&) = default;
};

std::string to_toml(const Artefact& artefact);
// Error{data_loss}: not such a file; {unimplemented}: written by a later version.
Artefact parse_artefact(std::string_view toml);

// The whole folder appears at once; one that is there is replaced.  Error{invalid_argument}: text that is not
// UTF-8, a `model` that is not lines of TOML.  Failpoint: artefact.before_rename.
void write_artefact(const std::string& folder, Artefact artefact, std::span<const NamedArray> parameters);

// The same for parameters that need not be in memory at once: `fill` writes each of `tensors` once.
void write_artefact(const std::string& folder, Artefact artefact, std::vector<TensorInfo> tensors,
                    const std::function<void(SafetensorsWriter&)>& fill);

// Description only; the digest of the parameters is compared with the file.  Error{not_found}, {data_loss}.
Artefact read_artefact(const std::string& folder);
SafetensorsFile open_parameters(const std::string& folder);  // of an artefact that read_artefact accepts

}  // namespace furrow::storage
