#include "furrow/data/class_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/text.h"

namespace furrow::data {
namespace {

constexpr int64_t kAtOnce = 1024;  // samples

// Two classes as one number (binary_targets.h), or labels.
int64_t class_of(const ArrayView& target, size_t row) {
  if (target.dtype == DType::kI64) return target.as<int64_t>()[row];
  return target.as<float>()[row] > 0.5f ? 1 : 0;
}

int64_t classes_of(const Source& source) {
  const Field& target = source.fields()[1];
  if (target.dtype == DType::kI64 && target.shape.empty()) return source.classes();
  if (target.dtype == DType::kF32 && source.classes() == 1 && num_elements(target.shape) == 1) return 2;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("training.balance_classes counts the samples of a class, and the target of these data "
                  "is {} {}, no class: set training.class_weights, or neither",
                  to_string(target.dtype), to_string(target.shape)));
}

}  // namespace

std::vector<int64_t> class_counts(const Source& source, const CancelToken* cancel) {
  std::vector<int64_t> counts(static_cast<size_t>(classes_of(source)));
  const Field& field = source.fields()[1];
  std::vector<int64_t> indices;
  for (int64_t begin = 0; begin < source.size(); begin += kAtOnce) {
    if (cancel != nullptr && cancel->cancelled())
      throw Error(ErrorCode::kCancelled,
                  "interrupted while the classes were counted: nothing is left behind");
    indices.resize(static_cast<size_t>(std::min(kAtOnce, source.size() - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    Shape shape = field.shape;
    shape.insert(shape.begin(), static_cast<int64_t>(indices.size()));
    Array targets(field.dtype, shape);
    source.read_targets(indices, targets.view());
    for (size_t row = 0; row < indices.size(); ++row)
      ++counts.at(static_cast<size_t>(class_of(targets.view(), row)));
  }
  return counts;
}

std::vector<float> balanced_weights(std::span<const int64_t> counts, std::span<const std::string> names) {
  const double samples = static_cast<double>(std::reduce(counts.begin(), counts.end()));
  std::vector<float> weights;
  for (size_t c = 0; c < counts.size(); ++c) {
    if (counts[c] == 0) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("training.balance_classes: class {}{} has no sample in the training split, so that "
                      "nothing says what it counts: set training.class_weights",
                      c, c < names.size() ? fmt::format(", '{}',", names[c]) : ""));
    }
    weights.push_back(
        static_cast<float>(samples / (static_cast<double>(counts.size()) * static_cast<double>(counts[c]))));
  }
  return weights;
}

std::string weights_text(std::span<const float> weights) {
  std::vector<std::string> texts;
  for (const float weight : weights) texts.push_back(format_double(weight));
  return fmt::format("{}", fmt::join(texts, " "));
}

std::vector<float> parse_weights(std::string_view text) {
  std::vector<float> weights;
  for (const std::string& word : split(text, ' ')) {
    double weight = 0;
    if (!parse_double(word, weight) || !(weight >= 0)) {
      throw Error(ErrorCode::kDataLoss,
                  fmt::format("class weights: '{}' is no weight: train the run again", word));
    }
    weights.push_back(static_cast<float>(weight));
  }
  return weights;
}

}  // namespace furrow::data
