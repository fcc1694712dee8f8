// "latent": noise by sample id, whatever the batch holds.
#include <ATen/ATen.h>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"
#include "furrow/nn/kinds_torch.h"

namespace furrow::nn {
namespace {

class Latent final : public Block {
 public:
  explicit Latent(const plan::Unit& unit)
      : name_(unit.name), width_(plan::attribute<int64_t>(unit, "width")) {}

  at::Tensor forward(const at::Tensor& input, std::span<const tensor::Param>,
                     tensor::OpContext& context) const override {
    const int64_t rows = input.size(0);
    FURROW_CHECK(static_cast<int64_t>(context.sample_ids.size()) == rows,
                 "noise needs a sample id for each row");
    const Philox stream(context.seed, RandomPurpose::kNoise, name_);
    at::Tensor noise = at::empty({rows, width_}, at::kFloat);
    float* const out = noise.data_ptr<float>();
    for (int64_t row = 0; row < rows; ++row) fill(stream, context, row, out + row * width_);
    return noise;
  }

 private:
  void fill(const Philox& stream, const tensor::OpContext& context, int64_t row, float* out) const {
    const auto step = static_cast<uint64_t>(context.step);
    const auto sample = static_cast<uint64_t>(context.sample_ids[static_cast<size_t>(row)]);
    for (int64_t i = 0; i < width_; i += 4) {
      const PhiloxBlock words = stream.block(step, sample, static_cast<uint32_t>(i / 4));
      for (int64_t w = 0; w < std::min<int64_t>(4, width_ - i); ++w)
        out[i + w] = 2 * uniform01(words[static_cast<size_t>(w)]) - 1;
    }
  }

  std::string name_;
  int64_t width_;
};

}  // namespace

std::unique_ptr<Block> make_latent(const plan::Unit& unit) { return std::make_unique<Latent>(unit); }

}  // namespace furrow::nn
