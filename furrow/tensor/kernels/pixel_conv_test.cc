#include "furrow/tensor/kernels/pixel_conv.h"

#include <string>
#include <type_traits>

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::narrowed;
using testing::random_floats;
using testing::same_bits;
using testing::widened;

struct Case {
  PixelConvShape shape;
  std::vector<float> x, weight, dy;
  explicit Case(const PixelConvShape& s)
      : shape(s),
        x(random_floats(s.batch * s.in_numbers(), 1)),
        weight(random_floats(s.out_channels * s.in_channels * s.kernel * s.kernel, 2)),
        dy(random_floats(s.batch * s.out_numbers(), 3)) {}
};

struct Result {
  std::vector<float> y, dx, dweight;
};

Result run(const Case& c, int threads) {
  Result r{std::vector<float>(c.dy.size(), NAN), std::vector<float>(c.x.size(), NAN),
           std::vector<float>(c.weight.size(), NAN)};
  pixel_conv_forward({c.shape, c.x.data(), c.weight.data(), r.y.data()}, threads);
  pixel_conv_backward_input({c.shape, c.dy.data(), c.weight.data(), r.dx.data()}, threads);
  pixel_conv_backward_weight({c.shape, c.x.data(), c.dy.data(), r.dweight.data()}, threads);
  return r;
}

struct Reference {
  std::vector<double> y, dx, dweight;
};

// Straight from the definition.
Reference reference(const Case& c) {
  const PixelConvShape& s = c.shape;
  Reference r{std::vector<double>(c.dy.size()), std::vector<double>(c.x.size()),
              std::vector<double>(c.weight.size())};
  for (int64_t at = 0; at < static_cast<int64_t>(c.dy.size()); ++at) {
    const int64_t o = at % s.out_channels, ox = at / s.out_channels % s.out_width();
    const int64_t oy = at / s.out_channels / s.out_width() % s.out_height(), n = at / s.out_numbers();
    for (int64_t ky = 0; ky < s.kernel; ++ky) {
      for (int64_t kx = 0; kx < s.kernel; ++kx) {
        const int64_t y = oy * s.stride + ky - s.padding, x = ox * s.stride + kx - s.padding;
        if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
        for (int64_t i = 0; i < s.in_channels; ++i) {
          const int64_t in = ((n * s.height + y) * s.width + x) * s.in_channels + i;
          const int64_t w = ((o * s.in_channels + i) * s.kernel + ky) * s.kernel + kx;
          r.y[at] += double{c.x[in]} * c.weight[w];
          r.dx[in] += double{c.dy[at]} * c.weight[w];
          r.dweight[w] += double{c.dy[at]} * c.x[in];
        }
      }
    }
  }
  return r;
}

std::vector<PixelConvShape> shapes() {
  return {{3, 3, 9, 11, 16, 3, 1, 1},
          {2, 16, 8, 8, 16, 3, 1, 1},
          {2, 16, 9, 7, 32, 3, 2, 1},
          {5, 32, 6, 6, 48, 3, 1, 1},
          {1, 5, 12, 13, 7, 7, 2, 3},
          {2, 16, 7, 8, 40, 1, 2, 0},
          {9, 20, 5, 17, 70, 3, 2, 1},
          {2, 4, 10, 10, 33, 5, 3, 2},
          {1, 1, 1, 1, 1, 1, 1, 0},
          {2, 2, 3, 3, 2, 3, 1, 0},
          {40, 8, 5, 5, 16, 3, 1, 1},
          // Rows of more than a tile, windows of any size over outputs side by side, borders wide and narrow.
          {2, 5, 4, 37, 9, 3, 1, 1},
          {2, 6, 9, 9, 20, 5, 1, 2},
          {1, 3, 6, 6, 4, 3, 1, 2},
          {2, 3, 5, 4, 5, 2, 1, 1},
          // Images that a weight gradient goes through in parts.
          {2, 20, 24, 25, 17, 3, 1, 1},
          {1, 16, 33, 31, 32, 3, 2, 1}};
}

TEST(PixelConv, EqualsTheDefinition) {
  for (const PixelConvShape& shape : shapes()) {
    const Case c(shape);
    const Reference want = reference(c);
    testing::for_each_target([&](const char*) {
      const Result got = run(c, 2);
      EXPECT_LT(testing::worst_error(got.y, want.y), 2e-5) << shape.kernel << " " << shape.stride;
      EXPECT_LT(testing::worst_error(got.dx, want.dx), 2e-5) << shape.kernel << " " << shape.stride;
      EXPECT_LT(testing::worst_error(got.dweight, want.dweight), 2e-5) << shape.kernel << " " << shape.stride;
    });
  }
}

TEST(PixelConv, BitsDoNotDependOnThreadsOrInstructionSetWithFma) {
  for (const PixelConvShape& shape : shapes()) {
    const Case c(shape);
    const Result one = run(c, 1);
    testing::for_each_target([&](const char* target) {
      if (std::string(target) == "SCALAR") return;
      for (const int threads : {1, 2, 5}) {
        const Result many = run(c, threads);
        EXPECT_TRUE(same_bits(one.y, many.y) && same_bits(one.dx, many.dx) &&
                    same_bits(one.dweight, many.dweight));
      }
    });
  }
}

// The outputs of an image do not depend on the others; the gradient of the weight on every one.
TEST(PixelConv, ImagesAreApart) {
  const Case c({4, 16, 8, 8, 32, 3, 1, 1});
  Case other = c;
  std::fill(other.x.begin() + c.shape.in_numbers(), other.x.end(), 9.0F);
  const Result a = run(c, 1), b = run(other, 1);
  EXPECT_TRUE(std::equal(a.y.begin(), a.y.begin() + c.shape.out_numbers(), b.y.begin()));
  EXPECT_FALSE(same_bits(a.dweight, b.dweight));
}

// The same of 16-bit numbers, which rounding takes from a float32 case.
template <class H>
struct HalfCase {
  PixelConvShape shape;
  std::vector<H> x, weight, dy;
  explicit HalfCase(const Case& c)
      : shape(c.shape), x(narrowed<H>(c.x)), weight(narrowed<H>(c.weight)), dy(narrowed<H>(c.dy)) {}

  Reference reference() const {
    Case exact(shape);
    exact.x = widened(x);
    exact.weight = widened(weight);
    exact.dy = widened(dy);
    return kernels::reference(exact);
  }
  Result run(int threads) const {
    std::vector<H> y(dy.size(), H{0x7fff}), dx(x.size(), H{0x7fff});
    Result r{{}, {}, std::vector<float>(weight.size(), NAN)};
    pixel_conv_forward({shape, x.data(), weight.data(), y.data()}, threads);
    pixel_conv_backward_input({shape, dy.data(), weight.data(), dx.data()}, threads);
    pixel_conv_backward_weight({shape, x.data(), dy.data(), r.dweight.data()}, threads);
    r.y = widened(y);
    r.dx = widened(dx);
    return r;
  }
};

template <class H>
class HalfPixelConv : public ::testing::Test {
 protected:
  // Half a unit in the last place of a result, beside what float32 sums are allowed.
  static constexpr double kRounding = std::is_same_v<H, bf16> ? 0x1p-9 : 0x1p-12;
};
using HalfTypes = ::testing::Types<bf16, f16>;
TYPED_TEST_SUITE(HalfPixelConv, HalfTypes);

TYPED_TEST(HalfPixelConv, EqualsTheDefinition) {
  for (const PixelConvShape& shape : shapes()) {
    const HalfCase<TypeParam> c{Case(shape)};
    const Reference want = c.reference();
    testing::for_each_target([&](const char*) {
      const Result got = c.run(2);
      EXPECT_LT(testing::worst_error(got.y, want.y), 2e-5 + 2 * TestFixture::kRounding);
      EXPECT_LT(testing::worst_error(got.dx, want.dx), 2e-5 + 2 * TestFixture::kRounding);
      EXPECT_LT(testing::worst_error(got.dweight, want.dweight),
                2e-5);  // float32: a rounded one is off by more
    });
  }
}

TYPED_TEST(HalfPixelConv, BitsDoNotDependOnThreads) {
  for (const PixelConvShape& shape : shapes()) {
    const HalfCase<TypeParam> c{Case(shape)};
    testing::for_each_target([&](const char*) {
      const Result one = c.run(1), many = c.run(5);
      EXPECT_TRUE(same_bits(one.y, many.y) && same_bits(one.dx, many.dx) &&
                  same_bits(one.dweight, many.dweight));
    });
  }
}

// Three outputs a row, and a last column and row that no window sees: nothing of them is multiplied, not even
// with zero.
TYPED_TEST(HalfPixelConv, WhatNoWindowSeesIsNotRead) {
  const Case plain({2, 5, 8, 8, 7, 3, 2, 0});
  ASSERT_EQ(plain.shape.out_width(), 3);
  Case other = plain;
  for (int64_t i = 0; i < static_cast<int64_t>(other.x.size()); ++i) {
    if (i / 5 % 8 == 7 || i / 40 % 8 == 7) other.x[static_cast<size_t>(i)] = INFINITY;
  }
  testing::for_each_target([&](const char*) {
    const Result a = HalfCase<TypeParam>(plain).run(1), b = HalfCase<TypeParam>(other).run(1);
    EXPECT_TRUE(same_bits(a.y, b.y));
    EXPECT_TRUE(same_bits(a.dweight, b.dweight));
  });
}

TEST(PixelConv, RefusesWhatHasNoOutput) {
  float f = 0;
  EXPECT_THROW(pixel_conv_forward({{1, 1, 2, 2, 1, 3, 1, 0}, &f, &f, &f}, 1), Error);
  EXPECT_THROW(pixel_conv_backward_weight({{1, 1, 4, 4, 1, 3, 1, 3}, &f, &f, &f}, 1), Error);
  EXPECT_THROW(pixel_conv_backward_input({{1, 1, 4, 4, 1, 3, 0, 1}, &f, &f, &f}, 1), Error);
}

}  // namespace
}  // namespace furrow::tensor::kernels
