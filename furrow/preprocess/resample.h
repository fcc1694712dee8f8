// The two passes of scaling an image, in vectors.  Each output is a sum of its own, in the order of its taps,
// so that the bits do not depend on the instruction set.  Pure; thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace furrow::preprocess {

// How outputs of one pass are made of its inputs: output i is the sum of weights[k] * input[first[i] + k -
// begin[i]] for k in [begin[i], begin[i + 1]).
struct Taps {
  std::vector<int64_t> first;  // an input per output
  std::vector<size_t> begin;   // in `weights`; one more than outputs
  std::vector<float> weights;

  size_t outputs() const { return first.size(); }
  std::span<const float> weights_of(size_t output) const {
    return std::span(weights).subspan(begin[output], begin[output + 1] - begin[output]);
  }
};

// Along a row of interleaved pixels of three channels: out has three floats per output.  REQUIRES: of both
// `out` and `scratch` one float more than outputs, or pixels, have: it is written over.
void resample_row(std::span<const uint8_t> pixels, const Taps& taps, std::span<float> scratch,
                  std::span<float> out);

// Across rows `stride` floats apart: bytes[i] = the sum of weights[k] * rows[k * stride + i], rounded to the
// nearest, ties up, within 0 to 255.
void blend_rows(const float* rows, size_t stride, std::span<const float> weights, std::span<uint8_t> bytes);

// Interleaved pixels of three channels to `planes`, which lie `plane` bytes apart.
void split_channels(std::span<const uint8_t> pixels, uint8_t* planes, size_t plane);

}  // namespace furrow::preprocess
