// Models of other programs as artefacts, and back.
#pragma once

#include <optional>
#include <string>

#include "furrow/base/array.h"
#include "furrow/models/foreign_model.h"
#include "furrow/preprocess/preprocessor.h"

namespace furrow::app {

// A folder of Hugging Face's: config.json beside model.safetensors, or the shards that
// model.safetensors.index.json lists.  float16 and bfloat16 become float32, exactly.  Errors name file and
// tensor or key: {not_found}, {data_loss}, {unimplemented} for a model that this library does not compute.
models::ForeignModel read_hugging_face(const std::string& folder);

// A file of llama2.c (models/llama2c.h).
models::ForeignModel read_llama2c(const std::string& file);

// Writes model.toml and model.safetensors into `folder`; `source` goes into the lineage, `tokenizer` (a
// state, or empty) into the preprocessing. Error{failed_precondition}: parameters that are missing, left over
// or of another shape.
void write_as_artefact(const models::ForeignModel& model, const std::string& source,
                       const std::string& folder, const preprocess::State& tokenizer = {});

// The artefact in `artefact` as a folder of Hugging Face's; false when its tokenizer has no form there.
// Parameters are of `dtype`, rounded to nearest even; nullopt: as they were imported, exactly, of a trained
// model float32.  Error{unimplemented}: an architecture, or a setting of it, that transformers does not have;
// {invalid_argument}: a finite number that float16 does not reach.
bool write_hugging_face(const std::string& artefact, const std::string& folder,
                        std::optional<DType> dtype = std::nullopt);

}  // namespace furrow::app
