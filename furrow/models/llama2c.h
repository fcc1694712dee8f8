// The file format of llama2.c, version 0 (https://github.com/karpathy/llama2.c, export.py, "legacy_export"):
//
//   7 little-endian int32: dim, hidden_dim, layers, heads, kv_heads, vocabulary, context; a vocabulary below
//   0 says that the output matrix is not the token embedding float32, each over all layers: token embedding,
//   attention norms, wq, wk, wv, wo, feed-forward norms, w1, w2, w3, the last norm, cosines and sines of the
//   rotation (read over: they follow from the sizes), output matrix
//
// There the rotation turns neighbouring pairs of a head's columns, here (and in Hugging Face's Llama) column
// d with column d + head_size / 2: the rows of wq and wk are put in that order.
#pragma once

#include <cstddef>
#include <span>

#include "furrow/models/foreign_model.h"

namespace furrow::models {

// Error{data_loss}: a header that cannot be, a file shorter or longer than its header says;
// Error{unimplemented}: a later version of the format.  Pure and thread safe.
// The parameters are read of `file`, which outlives the model.
ForeignModel parse_llama2c(std::span<const std::byte> file);

}  // namespace furrow::models
