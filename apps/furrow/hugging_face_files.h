// The JSON files of Hugging Face's folders.
#pragma once

#include <set>
#include <string>

#include "furrow/models/foreign_model.h"

namespace furrow::app {

// config.json: the model without its parameters.  Error{data_loss}: no such file, a key that is missing or of
// another type, a size that cannot be; {unimplemented}: a model that this library does not compute.
models::ForeignModel parse_hugging_face_config(const std::string& json);

// model.safetensors.index.json: the files that hold the tensors.  Error{data_loss}: no such file, a name that
// leaves the folder.
std::set<std::string> parse_hugging_face_index(const std::string& json);

}  // namespace furrow::app
