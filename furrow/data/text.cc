#include "furrow/data/text.h"

#include <cstring>
#include <limits>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

int width_for(int64_t vocabulary) {
  if (vocabulary <= std::numeric_limits<uint8_t>::max() + 1) return 1;
  return vocabulary <= std::numeric_limits<uint16_t>::max() + 1 ? 2 : 4;
}

template <class Narrow>
void narrow(std::span<const uint32_t> ids, std::byte* to) {
  auto* const out = reinterpret_cast<Narrow*>(to);
  for (size_t i = 0; i < ids.size(); ++i) out[i] = static_cast<Narrow>(ids[i]);
}

template <class Narrow>
void widen(const std::byte* from, int64_t begin, std::span<int64_t> out) {
  const auto* const in = reinterpret_cast<const Narrow*>(from) + begin;
  for (size_t i = 0; i < out.size(); ++i) out[i] = in[i];
}

}  // namespace

Tokens::Tokens(std::span<const uint32_t> ids, int64_t vocabulary)
    : size_(static_cast<int64_t>(ids.size())), vocabulary_(vocabulary), width_(width_for(vocabulary)) {
  buffer_ = CountedBuffer(ids.size() * static_cast<size_t>(width_), MemoryKind::kData);
  if (width_ == 1) narrow<uint8_t>(ids, buffer_.data());
  if (width_ == 2) narrow<uint16_t>(ids, buffer_.data());
  if (width_ == 4) narrow<uint32_t>(ids, buffer_.data());
}

void Tokens::copy(int64_t begin, std::span<int64_t> out) const {
  if (width_ == 1) widen<uint8_t>(buffer_.data(), begin, out);
  if (width_ == 2) widen<uint16_t>(buffer_.data(), begin, out);
  if (width_ == 4) widen<uint32_t>(buffer_.data(), begin, out);
}

std::vector<Field> text_fields(int64_t context) {
  return {{"input", DType::kI64, {context}}, {"target", DType::kI64, {context}}};
}

TextSource::TextSource(std::shared_ptr<const Tokens> tokens, Range range, int64_t context, int64_t stride)
    : tokens_(std::move(tokens)),
      range_(range),
      context_(context),
      stride_(stride),
      fields_(text_fields(context)) {
  FURROW_CHECK(context > 0 && stride > 0, "an empty window");
  FURROW_CHECK(range.begin >= 0 && range.end <= tokens_->size() && range.end - range.begin > context,
               "a range shorter than a window");
  size_ = (range.end - range.begin - context - 1) / stride + 1;
}

void TextSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const auto input = fields[0].as<int64_t>();
  const auto target = fields[1].as<int64_t>();
  const auto context = static_cast<size_t>(context_);
  for (size_t row = 0; row < indices.size(); ++row) {
    const int64_t begin = range_.begin + indices[row] * stride_;
    tokens_->copy(begin, input.subspan(row * context, context));
    tokens_->copy(begin + 1, target.subspan(row * context, context));
  }
}

}  // namespace furrow::data
