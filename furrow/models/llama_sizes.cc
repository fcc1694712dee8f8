#include "furrow/models/llama_sizes.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <string>

#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// Wavelengths above the longest become `factor` times longer, those below the shortest stay; between the two
// frequencies are mixed.
struct Llama3Scaling {
  double factor, longest, shortest, low, high, context;

  double operator()(double frequency) const {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength < shortest) return frequency;
    if (wavelength > longest) return frequency / factor;
    const double kept = (context / wavelength - low) / (high - low);
    return (1 - kept) * frequency / factor + kept * frequency;
  }
};

Llama3Scaling llama3_scaling(const plan::Unit& unit, double factor) {
  const double low = positive(unit, "rope_low_freq_factor"), high = positive(unit, "rope_high_freq_factor");
  if (low >= high) {
    unit_error(unit,
               fmt::format("rope_low_freq_factor = {} must be below rope_high_freq_factor = {}", low, high));
  }
  const auto context = static_cast<double>(size_of(unit, "rope_original_context"));
  return {factor, context / low, context / high, low, high, context};
}

std::vector<double> default_frequencies(int64_t head_dim, double theta) {
  std::vector<double> frequencies;
  for (int64_t d = 0; d < head_dim / 2; ++d)
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(head_dim)));
  return frequencies;
}

}  // namespace

LlamaSizes llama_sizes(const plan::Unit& unit) {
  LlamaSizes s{size_of(unit, "width"), size_of(unit, "heads"), size_of(unit, "kv_heads"), 0,
               size_of(unit, "ffn")};
  if (unit.attributes.contains("head_dim")) s.head_dim = count_of(unit, "head_dim");
  if (s.head_dim == 0) {
    if (s.width % s.heads != 0)
      unit_error(unit, fmt::format("width {} is no multiple of heads {}", s.width, s.heads));
    s.head_dim = s.width / s.heads;
    if (s.head_dim % 2 != 0) {
      unit_error(unit, fmt::format("width {} / heads {} = {} is odd: rotary positions turn pairs of columns",
                                   s.width, s.heads, s.head_dim));
    }
  }
  if (s.head_dim % 2 != 0)
    unit_error(unit, fmt::format("head_dim {} is odd: rotary positions turn pairs of columns", s.head_dim));
  constexpr int64_t kMost = int64_t{1} << 24;
  if (s.query_width() > kMost)
    unit_error(unit, fmt::format("heads {} of head_dim {} are above {} columns", s.heads, s.head_dim, kMost));
  if (s.heads % s.kv_heads != 0)
    unit_error(unit, fmt::format("heads {} is no multiple of kv_heads {}", s.heads, s.kv_heads));
  return s;
}

std::vector<double> rotary_frequencies(const plan::Unit& unit) {
  std::vector<double> frequencies =
      default_frequencies(llama_sizes(unit).head_dim, positive(unit, "rope_theta"));
  const std::string scaling = unit.attributes.contains("rope_scaling") ? text(unit, "rope_scaling") : "none";
  if (scaling == "none") return frequencies;
  if (scaling != "linear" && scaling != "llama3")
    unit_error(unit, fmt::format("unknown rope_scaling '{}': known: linear, llama3, none", scaling));
  const double factor = positive(unit, "rope_factor");
  if (factor < 1) unit_error(unit, fmt::format("rope_factor = {} must be at least 1", factor));
  if (scaling == "linear") {
    for (double& frequency : frequencies) frequency /= factor;
  } else {
    const Llama3Scaling scale = llama3_scaling(unit, factor);
    for (double& frequency : frequencies) frequency = scale(frequency);
  }
  return frequencies;
}

}  // namespace furrow::models
