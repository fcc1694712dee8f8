// "delay": sleeps for the times of its attributes, and multiplies with one number so that there are
// gradients.  An output of another size than the input has the input over and over, cut where it ends.
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

// [n, in] to [n, out]; out 0: as it is.
at::Tensor widened(const at::Tensor& x, int64_t out) {
  if (out == 0) return x;
  const at::Tensor rows = x.flatten(1);
  const int64_t times = (out + rows.size(1) - 1) / rows.size(1);
  return rows.repeat({1, times}).slice(1, 0, out);
}

// Its gradient: [n, out] to [n, in].
at::Tensor folded(const at::Tensor& dy, int64_t in) {
  const int64_t times = (dy.size(1) + in - 1) / in;
  const at::Tensor padded = at::constant_pad_nd(dy, {0, times * in - dy.size(1)});
  return padded.view({dy.size(0), times, in}).sum(1);
}

class Delay final : public Block {
 public:
  explicit Delay(const plan::Unit& unit)
      : out_(unit.output.shape == unit.input.shape ? 0 : unit.output.shape[1]),
        gain_(ParameterSlot::find(unit, "gain")),
        forward_(plan::attribute<double>(unit, "forward_ms")),
        backward_input_(plan::attribute<double>(unit, "backward_input_ms")),
        backward_weight_(plan::attribute<double>(unit, "backward_weight_ms")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param> params,
                     tensor::OpContext& context) const override {
    const auto begin = std::chrono::steady_clock::now();
    const tensor::Param gain = gain_(params);
    const float factor = *gain.leaf.const_data_ptr<float>();
    const at::Tensor x = input.detach();
    at::Tensor y = widened(x, out_) * factor;
    sleep_until(begin, forward_);
    return tensor::with_backward(
        y, {input, gain.leaf},
        [delay = *this, x, factor, index = gain.index, sink = context.sink](const at::Tensor& dy) {
          return std::vector<at::Tensor>{delay.backward(x, dy, factor, index, sink)};
        });
  }

 private:
  at::Tensor backward(const at::Tensor& x, const at::Tensor& dy, float factor, int index,
                      tensor::GradientSink* sink) const {
    const auto begin = std::chrono::steady_clock::now();
    at::Tensor dx = dy * factor;
    if (out_ > 0) dx = folded(dx, x.numel() / x.size(0)).view(x.sizes());
    if (sink != nullptr) {
      sink->defer(index, [x, dy, width = out_, time = backward_weight_](float* out) {
        const auto weight_begin = std::chrono::steady_clock::now();
        const at::Tensor terms = (widened(x, width) * dy).flatten();
        double sum = 0;
        for (int64_t i = 0; i < terms.numel(); ++i) sum += terms.const_data_ptr<float>()[i];
        *out = static_cast<float>(sum);
        sleep_until(weight_begin, time);
      });
    }
    sleep_until(begin, backward_input_);
    return dx;
  }

  int64_t out_;  // features of the output; 0: it is as the input
  ParameterSlot gain_;
  Milliseconds forward_, backward_input_, backward_weight_;
};

}  // namespace

std::unique_ptr<Block> make_delay(const plan::Unit& unit) { return std::make_unique<Delay>(unit); }

}  // namespace furrow::nn
