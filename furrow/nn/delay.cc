// "delay": sleeps for the times of its attributes, and multiplies with one number so that there are
// gradients.
#include <ATen/ATen.h>

#include <chrono>
#include <thread>

#include "furrow/nn/attributes_torch.h"
#include "furrow/nn/kinds_torch.h"
#include "furrow/nn/parameters_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/gradient_sink_torch.h"

namespace furrow::nn {
namespace {

using Milliseconds = std::chrono::duration<double, std::milli>;

// From `begin` on, so that the arithmetic counts as part of the time.
void sleep_until(std::chrono::steady_clock::time_point begin, Milliseconds time) {
  std::this_thread::sleep_until(begin + std::chrono::duration_cast<std::chrono::nanoseconds>(time));
}

class Delay final : public Block {
 public:
  explicit Delay(const plan::Unit& unit)
      : gain_(ParameterSlot::find(unit, "gain")),
        forward_(plan::attribute<double>(unit, "forward_ms")),
        backward_input_(plan::attribute<double>(unit, "backward_input_ms")),
        backward_weight_(plan::attribute<double>(unit, "backward_weight_ms")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const auto begin = std::chrono::steady_clock::now();
    const tensor::Param gain = gain_(params);
    const float factor = *gain.leaf.const_data_ptr<float>();
    const at::Tensor x = input.detach();
    at::Tensor y = x * factor;
    sleep_until(begin, forward_);
    return tensor::with_backward(
        y, {input, gain.leaf},
        [this, x, factor, index = gain.index, sink = context.sink](const at::Tensor& dy) {
          return std::vector<at::Tensor>{backward(x, dy, factor, index, sink)};
        });
  }

 private:
  at::Tensor backward(const at::Tensor& x, const at::Tensor& dy, float factor, int index,
                      tensor::GradientSink* sink) const {
    const auto begin = std::chrono::steady_clock::now();
    at::Tensor dx = dy * factor;
    if (sink != nullptr) {
      sink->defer(index, [x, dy, time = backward_weight_](float* out) {
        const auto weight_begin = std::chrono::steady_clock::now();
        const at::Tensor terms = (x * dy).flatten();
        double sum = 0;
        for (int64_t i = 0; i < terms.numel(); ++i) sum += terms.const_data_ptr<float>()[i];
        *out = static_cast<float>(sum);
        sleep_until(weight_begin, time);
      });
    }
    sleep_until(begin, backward_input_);
    return dx;
  }

  ParameterSlot gain_;
  Milliseconds forward_, backward_input_, backward_weight_;
};

}  // namespace

std::unique_ptr<Block> make_delay(const plan::Unit& unit) { return std::make_unique<Delay>(unit); }

}  // namespace furrow::nn
