#include <algorithm>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/tensor/gradient_sink_torch.h"

namespace furrow::tensor {

GradientSink::GradientSink(int parameters) : entries_(static_cast<size_t>(parameters)) {}

void GradientSink::put(int parameter, at::Tensor gradient) {
  FURROW_CHECK(!has(parameter), "a second gradient for parameter " + std::to_string(parameter));
  FURROW_CHECK(gradient.defined() && gradient.scalar_type() == at::kFloat, "a gradient is float32");
  entries_[static_cast<size_t>(parameter)].gradient = std::move(gradient);
}

void GradientSink::defer(int parameter, std::function<void(float*)> compute) {
  FURROW_CHECK(!has(parameter), "a second gradient for parameter " + std::to_string(parameter));
  entries_[static_cast<size_t>(parameter)].compute = std::move(compute);
}

bool GradientSink::has(int parameter) const {
  FURROW_CHECK(parameter >= 0 && static_cast<size_t>(parameter) < entries_.size(),
               "no parameter " + std::to_string(parameter));
  const Entry& entry = entries_[static_cast<size_t>(parameter)];
  return entry.gradient.defined() || entry.compute != nullptr;
}

void GradientSink::write(std::span<const std::span<float>> targets) {
  FURROW_CHECK(targets.size() == entries_.size(), "one target for every parameter");
  std::vector<Entry> entries(entries_.size());
  entries.swap(entries_);
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry entry = std::exchange(entries[i], Entry{});
    if (entry.compute) {
      entry.compute(targets[i].data());
    } else if (entry.gradient.defined()) {
      FURROW_CHECK(static_cast<size_t>(entry.gradient.numel()) == targets[i].size(),
                   "gradient and parameter " + std::to_string(i) + " differ in size");
      const at::Tensor dense = entry.gradient.contiguous();
      std::memcpy(targets[i].data(), dense.const_data_ptr<float>(), targets[i].size_bytes());
    } else {
      std::fill(targets[i].begin(), targets[i].end(), 0.0f);
    }
  }
}

}  // namespace furrow::tensor
