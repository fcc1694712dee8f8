// What Hugging Face's transformers calls our models: one table for names of tensors and for keys of
// config.json, read by import and export alike.  Pure data.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "furrow/config/model.h"

namespace furrow::models {

struct HuggingFaceTensor {
  std::string name;         // "transformer.h.0.attn.c_attn.weight"
  bool transposed = false;  // GPT-2 keeps the matrices of its blocks as [in, out]
};

// A key of config.json that is a size or a setting of [model]; exactly one member is not null.
struct HuggingFaceKey {
  std::string_view key;  // "hidden_size"
  int64_t config::Model::* integer = nullptr;
  double config::Model::* real = nullptr;
  bool config::Model::* flag = nullptr;
};

// A key that must have one value; absent, it has that value unless `required`.
struct HuggingFaceFact {
  std::string_view key;    // "hidden_act"
  std::string_view value;  // as JSON
  bool required = false;
};

// What config.json may say of rotary positions: a type and the keys that it must have.
struct HuggingFaceRope {
  std::string_view type;     // "llama3"
  std::string_view scaling;  // as [model] rope_scaling has it
  std::span<const HuggingFaceKey> keys;
};
std::span<const HuggingFaceRope> hugging_face_ropes();

// What a key of config.json speaks of when it can change what a model computes: one that has such a word and
// is in no list below is refused.
std::span<const std::string_view> hugging_face_arithmetic_words();

// A setting of [model] that a model type always has, and that no key of config.json names.
struct HuggingFaceSetting {
  bool config::Model::* flag = nullptr;
  bool value = false;
};

struct HuggingFaceModel {
  std::string_view architecture;  // "gpt"
  std::string_view model_type;    // "gpt2"
  std::string_view class_name;    // "GPT2LMHeadModel"
  std::string_view prefix;        // of every tensor but the output matrix; older files lack it
  std::string_view context_key;   // "n_positions"
  std::span<const HuggingFaceKey> keys;
  std::span<const HuggingFaceFact> facts;
  std::span<const std::string_view> ignored;  // keys with such a word that change nothing here
  std::span<const HuggingFaceSetting> settings;
};

std::span<const HuggingFaceModel> hugging_face_models();
// Null when there is none.
// The first: all of one architecture call its parameters the same.
const HuggingFaceModel* find_by_architecture(std::string_view architecture);
const HuggingFaceModel* find_by_model(const config::Model& model);  // of its architecture and settings
const HuggingFaceModel* find_by_model_type(std::string_view model_type);

// Of a parameter under our name, "h.0.attn.c_attn.weight".
HuggingFaceTensor hugging_face_tensor(const HuggingFaceModel& model, std::string_view parameter);

// Tensors that a file may hold besides parameters: masks, wavelengths, a tied output matrix once more.
bool is_hugging_face_buffer(std::string_view tensor);

}  // namespace furrow::models
