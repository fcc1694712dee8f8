#include "furrow/models/llama2c.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::models {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

struct Header {
  int64_t width, ffn, layers, heads, kv_heads, vocabulary, context;
  bool tied;
  int64_t head_size() const { return width / heads; }
  int64_t kv_width() const { return head_size() * kv_heads; }
};

constexpr size_t kHeaderBytes = 7 * sizeof(int32_t);
constexpr int32_t kLaterVersions = 0x616b3432;  // "ak42"

Header header_of(std::span<const std::byte> file) {
  std::array<int32_t, 7> words{};
  if (file.size() < kHeaderBytes)
    damaged(fmt::format("{} bytes are too few for a header of {}", file.size(), kHeaderBytes));
  std::memcpy(words.data(), file.data(), kHeaderBytes);
  if (words[0] == kLaterVersions) {
    throw Error(
        ErrorCode::kUnimplemented,
        "this is a later version of llama2.c's format: export it with version 0 (export.py --version 0)");
  }
  const Header h{words[0], words[1],    words[2], words[3], words[4], std::abs(int64_t{words[5]}),
                 words[6], words[5] > 0};
  constexpr int64_t kMost = int64_t{1} << 20;  // products of three stay far inside int64
  for (const int64_t size : {h.width, h.ffn, h.layers, h.heads, h.kv_heads, h.vocabulary, h.context}) {
    if (size < 1 || size > kMost)
      damaged(fmt::format("a size of {} in the header: this is no llama2.c file", size));
  }
  if (h.width % h.heads != 0 || h.heads % h.kv_heads != 0 || h.head_size() % 2 != 0) {
    damaged(fmt::format("a header with dim {}, heads {} and kv_heads {}: this is no llama2.c file", h.width,
                        h.heads, h.kv_heads));
  }
  return h;
}

// The floats of the file, front to back.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> rest) : rest_(rest) {}

  // The next rows * columns of them; `layer` tensors of that size follow each other.
  std::span<const std::byte> take(int64_t elements) {
    // Header sizes keep the product small enough for size_t, yet it may be far more than the file.
    const auto bytes = static_cast<size_t>(elements) * sizeof(float);
    if (bytes > rest_.size()) damaged("the file is shorter than its header says: it is truncated");
    const std::span<const std::byte> taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }
  size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

Array copied(std::span<const std::byte> bytes, Shape shape) {
  Array array(DType::kF32, std::move(shape));
  std::ranges::copy(bytes, array.bytes().begin());
  return array;
}

// Rows of each head from pairs side by side to halves: row d and row d + size / 2 were rows 2 d and 2 d + 1.
Array halves(std::span<const std::byte> bytes, Shape shape, int64_t head_size) {
  Array array(DType::kF32, shape);
  const auto row = static_cast<size_t>(shape[1]) * sizeof(float);
  for (int64_t r = 0; r < shape[0]; ++r) {
    const int64_t d = r % head_size, half = head_size / 2;
    const int64_t from = r - d + (d < half ? 2 * d : 2 * (d - half) + 1);
    std::ranges::copy(bytes.subspan(static_cast<size_t>(from) * row, row),
                      array.bytes().begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(r) * row));
  }
  return array;
}

// Reads one tensor of each layer into parameters.
void read_layers(const Header& h, Cursor& cursor, const std::string& name, const Shape& shape, bool turned,
                 ForeignModel* model) {
  for (int64_t layer = 0; layer < h.layers; ++layer) {
    const std::span<const std::byte> bytes = cursor.take(num_elements(shape));
    model->parameters.push_back({fmt::format("model.layers.{}.{}.weight", layer, name), shape,
                                 [bytes, shape, turned, size = h.head_size()] {
                                   return turned ? halves(bytes, shape, size) : copied(bytes, shape);
                                 }});
  }
}

void read_parameters(const Header& h, Cursor& cursor, ForeignModel* model) {
  const auto one = [&](const std::string& name, const Shape& shape) {
    const std::span<const std::byte> bytes = cursor.take(num_elements(shape));
    model->parameters.push_back({name, shape, [bytes, shape] { return copied(bytes, shape); }});
  };
  one("model.embed_tokens.weight", {h.vocabulary, h.width});
  read_layers(h, cursor, "input_layernorm", {h.width}, false, model);
  read_layers(h, cursor, "self_attn.q_proj", {h.width, h.width}, true, model);
  read_layers(h, cursor, "self_attn.k_proj", {h.kv_width(), h.width}, true, model);
  read_layers(h, cursor, "self_attn.v_proj", {h.kv_width(), h.width}, false, model);
  read_layers(h, cursor, "self_attn.o_proj", {h.width, h.width}, false, model);
  read_layers(h, cursor, "post_attention_layernorm", {h.width}, false, model);
  read_layers(h, cursor, "mlp.gate_proj", {h.ffn, h.width}, false, model);
  read_layers(h, cursor, "mlp.down_proj", {h.width, h.ffn}, false, model);
  read_layers(h, cursor, "mlp.up_proj", {h.ffn, h.width}, false, model);
  one("model.norm.weight", {h.width});
  cursor.take(h.context * h.head_size());
  if (!h.tied) one("lm_head.weight", {h.vocabulary, h.width});
}

}  // namespace

ForeignModel parse_llama2c(std::span<const std::byte> file) {
  const Header h = header_of(file);
  ForeignModel model;
  model.model.name = "llama";
  model.model.width = h.width;
  model.model.ffn_width = h.ffn;
  model.model.layers = h.layers;
  model.model.heads = h.heads;
  model.model.kv_heads = h.kv_heads;
  model.model.tie_embeddings = h.tied;
  model.vocabulary = h.vocabulary;
  model.context = h.context;
  Cursor cursor(file.subspan(kHeaderBytes));
  read_parameters(h, cursor, &model);
  if (cursor.left() != 0)
    damaged(fmt::format("{} bytes follow the last tensor: this is no llama2.c file", cursor.left()));
  return model;
}

}  // namespace furrow::models
