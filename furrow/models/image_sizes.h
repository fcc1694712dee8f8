// Sizes of images under convolutions and pools.  Internal to models.
#pragma once

#include <fmt/format.h>

#include <cstdint>

#include "furrow/models/unit_builder.h"

namespace furrow::models {

struct Image {
  int64_t channels, height, width;
  int64_t pixels() const { return height * width; }
  int64_t elements() const { return channels * pixels(); }
  plan::TensorSpec spec() const { return {DType::kF32, {-1, channels, height, width}}; }
};

struct Window {
  int64_t kernel, stride, padding;
};

inline Image input_image(const plan::Unit& unit) {
  require_input(unit, DType::kF32, 4, "[-1, channels, height, width]");
  const Shape& shape = unit.input.shape;
  return {shape[1], shape[2], shape[3]};
}

inline void require_channels(const plan::Unit& unit, const char* key) {
  if (size_of(unit, key) == unit.input.shape[1]) return;
  unit_error(unit, fmt::format("{} is {}, but the input {} has {}", key, size_of(unit, key),
                               to_string(unit.input.shape), unit.input.shape[1]));
}

inline Image slide(const plan::Unit& unit, const Image& image, const Window& window, int64_t channels) {
  const auto out = [&](int64_t size) {
    return (size + 2 * window.padding - window.kernel) / window.stride + 1;
  };
  if (image.height + 2 * window.padding < window.kernel || image.width + 2 * window.padding < window.kernel) {
    unit_error(unit,
               fmt::format("an image of {} x {} is too small for a window of {} x {} with padding {}: use "
                           "larger images",
                           image.height, image.width, window.kernel, window.kernel, window.padding));
  }
  return {channels, out(image.height), out(image.width)};
}

}  // namespace furrow::models
