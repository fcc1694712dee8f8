#include "furrow/preprocess/image_resize.h"

#include <algorithm>
#include <cmath>

#include "furrow/base/error.h"
#include "furrow/preprocess/resample.h"

namespace furrow::preprocess {
namespace {

// Outputs begin to begin + count of `length` inputs scaled to `scaled` outputs.
Taps taps_of(int64_t length, int64_t scaled, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(length) / static_cast<double>(scaled);
  const double support = std::max(scale, 1.0);
  Taps taps;
  std::vector<double> weights;
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - support + 0.5)));
    const auto end = std::min<int64_t>(length, static_cast<int64_t>(std::floor(centre + support + 0.5)));
    taps.first.push_back(first);
    taps.begin.push_back(taps.weights.size());
    double sum = 0;
    weights.clear();
    for (int64_t at = first; at < end; ++at) {
      const double distance = std::abs(static_cast<double>(at) + 0.5 - centre) / support;
      weights.push_back(std::max(0.0, 1.0 - distance));
      sum += weights.back();
    }
    for (const double weight : weights) taps.weights.push_back(static_cast<float>(weight / sum));
  }
  taps.begin.push_back(taps.weights.size());
  return taps;
}

int64_t half_to_even(int64_t twice) { return twice / 2 + (twice % 2 != 0 && twice / 2 % 2 != 0 ? 1 : 0); }

int64_t divided_up(int64_t length, int shrink) { return (length + shrink - 1) / shrink; }

bool is_inside(const Region& region, const RgbImage& image) {
  return region.top >= 0 && region.left >= 0 && region.height > 0 && region.width > 0 &&
         region.top + region.height <= image.height && region.left + region.width <= image.width;
}

}  // namespace

Scaling resize_then_crop(int64_t height, int64_t width, int64_t resize_size, int64_t size) {
  FURROW_CHECK(height > 0 && width > 0 && size > 0 && size <= resize_size, "an empty image or picture");
  const int64_t shorter = std::min(height, width);
  Scaling scaling{.region = {0, 0, height, width},
                  .height = height == shorter ? resize_size : resize_size * height / shorter,
                  .width = width == shorter ? resize_size : resize_size * width / shorter};
  scaling.row = half_to_even(scaling.height - size);
  scaling.column = half_to_even(scaling.width - size);
  return scaling;
}

Scaling rounded_then_cropped(int64_t height, int64_t width, int64_t size) {
  FURROW_CHECK(height > 0 && width > 0 && size > 0, "an empty image");
  const double shorter = static_cast<double>(std::min(height, width));
  const auto scaled = [&](int64_t length) {
    return std::max<int64_t>(size, std::llround(static_cast<double>(length * size) / shorter));
  };
  Scaling scaling{.region = {0, 0, height, width}, .height = scaled(height), .width = scaled(width)};
  scaling.row = (scaling.height - size) / 2;
  scaling.column = (scaling.width - size) / 2;
  return scaling;
}

Scaling shrunk(const Scaling& scaling, int64_t height, int64_t width, int shrink) {
  Scaling small = scaling;
  const auto part = [shrink](int64_t begin, int64_t length, int64_t whole, int64_t* from) {
    const int64_t sides = divided_up(whole, shrink);
    *from = std::min(begin / shrink, sides - 1);
    return std::min(divided_up(length, shrink), sides - *from);
  };
  const Region& region = scaling.region;
  small.region.height = part(region.top, region.height, height, &small.region.top);
  small.region.width = part(region.left, region.width, width, &small.region.left);
  return small;
}

void resize(const RgbImage& image, const Scaling& scaling, int64_t size, std::span<uint8_t> out) {
  const Region& region = scaling.region;
  FURROW_CHECK(image.pixels.size() == static_cast<size_t>(image.height * image.width * 3), "other pixels");
  FURROW_CHECK(size > 0 && is_inside(region, image), "a region outside of the image");
  FURROW_CHECK(scaling.row >= 0 && scaling.row + size <= scaling.height && scaling.column >= 0 &&
                   scaling.column + size <= scaling.width,
               "a picture outside of what is scaled");
  FURROW_CHECK(out.size() == static_cast<size_t>(3 * size * size), "an output of another size");
  const Taps rows = taps_of(region.height, scaling.height, scaling.row, size),
             columns = taps_of(region.width, scaling.width, scaling.column, size);
  const auto stride = static_cast<size_t>(image.width * 3), bytes = static_cast<size_t>(region.width * 3),
             line = static_cast<size_t>(size * 3), side = static_cast<size_t>(size);
  const auto corner = static_cast<size_t>(region.top) * stride + static_cast<size_t>(region.left) * 3;
  const int64_t first_row = rows.first.front();
  const int64_t last_row = rows.first.back() + static_cast<int64_t>(rows.weights_of(side - 1).size());
  std::vector<float> wide(static_cast<size_t>(last_row - first_row) * line + 1), scratch(bytes + 1);
  for (int64_t y = first_row; y < last_row; ++y) {
    resample_row(std::span(image.pixels).subspan(corner + static_cast<size_t>(y) * stride, bytes), columns,
                 scratch, std::span(wide).subspan(static_cast<size_t>(y - first_row) * line, line + 1));
  }
  std::vector<uint8_t> pixels(line);
  for (size_t y = 0; y < side; ++y) {
    blend_rows(wide.data() + static_cast<size_t>(rows.first[y] - first_row) * line, line, rows.weights_of(y),
               pixels);
    split_channels(pixels, out.data() + y * side, side * side);
  }
}

void resize_and_crop(const RgbImage& image, int64_t size, std::span<uint8_t> out) {
  resize(image, rounded_then_cropped(image.height, image.width, size), size, out);
}

}  // namespace furrow::preprocess
