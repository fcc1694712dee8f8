#include "furrow/tensor/kernels/dropout.h"

#include "furrow/base/rng.h"
#include "furrow/tensor/kernels/embedding.h"
#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

constexpr int64_t kBatch = 5, kSize = 1283;

struct Masked {
  std::vector<uint64_t> samples{3, (uint64_t{1} << 40) + 17, 0, 99, (uint64_t{1} << 48) - 1};
  DropoutMask mask{.p = 0.2f,
                   .key = Philox(7, RandomPurpose::kDropout, "block0").key(),
                   .step = (uint64_t{1} << 33) + 5,
                   .samples = samples.data()};
};

TEST(Dropout, DrawsTheBitsOfPhilox) {
  const Masked m;
  const std::vector<float> x = random_floats(kBatch * kSize, 1), residual = random_floats(kBatch * kSize, 2);
  const Philox stream(7, RandomPurpose::kDropout, "block0");
  std::vector<float> want, want_sum;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t n = i / kSize, element = i % kSize;
    const PhiloxBlock block = stream.block(m.mask.step, m.samples[n], static_cast<uint32_t>(element / 4));
    const float factor = uniform01(block[element % 4]) >= 0.2f ? 1.0f / (1.0f - 0.2f) : 0.0f;
    want.push_back(x[i] * factor);
    want_sum.push_back(residual[i] + x[i] * factor);
  }
  testing::for_each_target([&](const char*) {
    std::vector<float> got(x.size()), sum(x);
    for (const int threads : {1, 3}) {
      dropout({kBatch, kSize, x.data(), got.data(), m.mask}, threads);
      EXPECT_TRUE(same_bits(got, want));
    }
    residual_dropout({kBatch, kSize, residual.data(), sum.data(), sum.data(), m.mask}, 2);
    EXPECT_TRUE(same_bits(sum, want_sum));
  });
  Masked other;
  other.mask.step += 1;  // another step is another mask
  std::vector<float> got(x.size());
  dropout({kBatch, kSize, x.data(), got.data(), other.mask}, 1);
  EXPECT_FALSE(same_bits(got, want));
}

TEST(Dropout, ZeroIsAPlainSum) {
  const std::vector<float> x = random_floats(100, 1), residual = random_floats(100, 2);
  std::vector<float> out(100);
  residual_dropout({1, 100, residual.data(), x.data(), out.data(), {}}, 1);
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(out[i], residual[i] + x[i]);
}

TEST(Dropout, KeepsTheStatedShare) {
  Masked m;
  const std::vector<float> ones(static_cast<size_t>(kBatch) * 40000, 1);
  std::vector<float> out(ones.size());
  dropout({kBatch, 40000, ones.data(), out.data(), m.mask}, 1);
  const double kept =
      static_cast<double>(std::count_if(out.begin(), out.end(), [](float v) { return v > 0; }));
  EXPECT_NEAR(kept / static_cast<double>(out.size()), 0.8, 0.004);  // 4.5 standard deviations
}

TEST(Embedding, RowsAndTheirGradient) {
  const std::vector<int64_t> ids{3, 0, 3, 3, 1, 4, 0, 3};
  const int64_t columns = 21, count = 8;
  const std::vector<float> table = random_floats(6 * columns, 1), positions = random_floats(4 * columns, 2),
                           dout = random_floats(count * columns, 3);
  std::vector<float> want, dtable(table.size()), dpositions(positions.size());
  for (size_t i = 0; i < 8; ++i) {
    for (size_t j = 0; j < 21; ++j) {
      want.push_back(table[static_cast<size_t>(ids[i]) * 21 + j] + positions[i % 4 * 21 + j]);
      dtable[static_cast<size_t>(ids[i]) * 21 + j] += dout[i * 21 + j];
      dpositions[i % 4 * 21 + j] += dout[i * 21 + j];
    }
  }
  testing::for_each_target([&](const char*) {
    for (const int threads : {1, 2}) {
      std::vector<float> out(want.size()), got(table.size(), NAN), got_positions(positions.size(), NAN);
      embedding_forward({count, columns, ids.data(), table.data(), positions.data(), 4, out.data()}, threads);
      embedding_backward({count, columns, 6, ids.data(), dout.data(), got.data()}, threads);
      embedding_backward({count, columns, 4, nullptr, dout.data(), got_positions.data()}, threads);
      EXPECT_TRUE(same_bits(out, want) && same_bits(got, dtable) && same_bits(got_positions, dpositions));
    }
  });
  std::vector<float> got(table.size());
  const std::vector<int64_t> swapped{3, 0, 3, 3, 1, 4, 3, 0};
  embedding_backward({count, columns, 6, swapped.data(), dout.data(), got.data()}, 1);
  EXPECT_FALSE(same_bits(got, dtable));
}

}  // namespace
}  // namespace furrow::tensor::kernels
