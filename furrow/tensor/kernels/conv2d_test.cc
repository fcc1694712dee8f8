#include "furrow/tensor/kernels/conv2d.h"

#include "furrow/base/error.h"
#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

// Everything in double, one sample after the other, straight from the definition.
struct Reference {
  std::vector<double> y, dx, dweight, dbias;
};

struct Case {
  Conv2dShape s;
  std::vector<float> x, weight, bias, dy;
  explicit Case(const Conv2dShape& shape) : s(shape) {
    x = random_floats(s.batch * s.in_channels * s.height * s.width, 1);
    weight = random_floats(s.weight_size(), 2);
    bias = random_floats(s.out_channels, 3);
    dy = random_floats(s.batch * s.out_channels * s.out_height() * s.out_width(), 4);
  }
  int64_t input(int64_t n, int64_t c, int64_t y0, int64_t x0) const {  // -1 in the zero border
    const int64_t yy = y0 - s.padding, xx = x0 - s.padding;
    if (yy < 0 || xx < 0 || yy >= s.height || xx >= s.width) return -1;
    return ((n * s.in_channels + c) * s.height + yy) * s.width + xx;
  }
  template <class Fn>  // fn(weight index, input index) for each product of one output
  void taps(int64_t n, int64_t o, int64_t y0, int64_t x0, const Fn& fn) const {
    for (int64_t c = 0; c < s.in_channels; ++c) {
      for (int64_t ky = 0; ky < s.kernel; ++ky) {
        for (int64_t kx = 0; kx < s.kernel; ++kx) {
          const int64_t at = input(n, c, y0 + ky, x0 + kx);
          if (at >= 0) fn(((o * s.in_channels + c) * s.kernel + ky) * s.kernel + kx, at);
        }
      }
    }
  }
  double conv(int64_t n, int64_t o, int64_t y0, int64_t x0) const {
    double sum = bias[static_cast<size_t>(o)];
    taps(n, o, y0, x0, [&](int64_t w, int64_t i) {
      sum += static_cast<double>(weight[static_cast<size_t>(w)]) * x[static_cast<size_t>(i)];
    });
    return sum;
  }
};

Reference reference(const Case& c) {
  const Conv2dShape& s = c.s;
  Reference r{{},
              std::vector<double>(c.x.size()),
              std::vector<double>(c.weight.size()),
              std::vector<double>(c.bias.size())};
  const int64_t step = s.pool ? 2 : 1;
  for (int64_t i = 0; i < static_cast<int64_t>(c.dy.size()); ++i) {
    const int64_t ox = i % s.out_width(), oy = i / s.out_width() % s.out_height();
    const int64_t o = i / (s.out_width() * s.out_height()) % s.out_channels;
    const int64_t n = i / (s.out_width() * s.out_height() * s.out_channels);
    int64_t by = oy * step, bx = ox * step;
    double best = c.conv(n, o, by, bx);
    for (int64_t p = 1; p < step * step; ++p) {
      const double v = c.conv(n, o, oy * 2 + p / 2, ox * 2 + p % 2);
      if (v > best) best = v, by = oy * 2 + p / 2, bx = ox * 2 + p % 2;
    }
    r.y.push_back(s.relu ? std::max(0.0, best) : best);
    if (s.relu && best <= 0) continue;
    const double g = c.dy[static_cast<size_t>(i)];
    r.dbias[static_cast<size_t>(o)] += g;
    c.taps(n, o, by, bx, [&](int64_t w, int64_t in) {
      r.dweight[static_cast<size_t>(w)] += g * c.x[static_cast<size_t>(in)];
      r.dx[static_cast<size_t>(in)] += g * c.weight[static_cast<size_t>(w)];
    });
  }
  return r;
}

struct Result {
  std::vector<float> y, dx, dweight, dbias;
};

Result run(const Case& c, int threads) {
  std::vector<uint8_t> codes(static_cast<size_t>(c.s.code_bytes()));
  uint8_t* code = codes.empty() ? nullptr : codes.data();
  Result r{std::vector<float>(c.dy.size()), std::vector<float>(c.x.size(), NAN),
           std::vector<float>(c.weight.size(), NAN), std::vector<float>(c.bias.size(), NAN)};
  conv2d_forward({c.s, c.x.data(), c.weight.data(), c.bias.data(), r.y.data(), code}, threads);
  conv2d_backward_input({c.s, c.dy.data(), code, c.weight.data(), r.dx.data()}, threads);
  conv2d_backward_weight({c.s, c.x.data(), c.dy.data(), code, r.dweight.data(), r.dbias.data()}, threads);
  return r;
}

std::vector<Conv2dShape> shapes() {
  return {
      {.batch = 16,
       .in_channels = 1,
       .height = 28,
       .width = 28,
       .out_channels = 6,
       .kernel = 5,
       .relu = true,
       .pool = true},
      {.batch = 21,
       .in_channels = 6,
       .height = 12,
       .width = 12,
       .out_channels = 16,
       .kernel = 5,
       .relu = true,
       .pool = true},
      {.batch = 3,
       .in_channels = 3,
       .height = 9,
       .width = 7,
       .out_channels = 5,
       .kernel = 3,
       .padding = 1,
       .relu = true,
       .pool = true},
      {.batch = 17,
       .in_channels = 7,
       .height = 6,
       .width = 11,
       .out_channels = 13,
       .kernel = 3,
       .padding = 1},
      {.batch = 2, .in_channels = 2, .height = 8, .width = 8, .out_channels = 2, .kernel = 1, .relu = true},
      {.batch = 5,
       .in_channels = 4,
       .height = 10,
       .width = 9,
       .out_channels = 9,
       .kernel = 7,
       .padding = 3,
       .pool = true},
      {.batch = 1, .in_channels = 1, .height = 1, .width = 1, .out_channels = 1, .kernel = 1},
  };
}

TEST(Conv2d, EqualsTheDefinition) {
  for (const Conv2dShape& s : shapes()) {
    const Case c(s);
    const Reference want = reference(c);
    testing::for_each_target([&](const char*) {
      const Result got = run(c, 2);
      // Sums of up to 25 * 16 products (forward) and 21 * 64 (weights) of numbers up to 1 in fp32.
      EXPECT_LT(testing::worst_error(got.y, want.y), 4e-6);
      EXPECT_LT(testing::worst_error(got.dx, want.dx), 4e-6);
      EXPECT_LT(testing::worst_error(got.dweight, want.dweight), 2e-5);
      EXPECT_LT(testing::worst_error(got.dbias, want.dbias), 2e-5);
    });
  }
}

TEST(Conv2d, BitsDoNotDependOnThreads) {
  for (const Conv2dShape& shape : shapes()) {
    Conv2dShape s = shape;
    s.batch += 40;
    const Case c(s);
    const Result one = run(c, 1);
    for (const int threads : {2, 3, 7}) {
      const Result many = run(c, threads);
      EXPECT_TRUE(same_bits(one.y, many.y) && same_bits(one.dx, many.dx) &&
                  same_bits(one.dweight, many.dweight) && same_bits(one.dbias, many.dbias));
    }
    Case other = c;  // one flipped sign bit is seen
    other.weight[0] = -other.weight[0];
    EXPECT_FALSE(same_bits(one.y, run(other, 1).y));
  }
}

TEST(Conv2d, ASampleDoesNotSeeTheOthers) {
  Conv2dShape s = shapes()[1];
  const Case whole(s);
  const Result all = run(whole, 1);
  const size_t in = whole.x.size() / static_cast<size_t>(s.batch),
               out = whole.dy.size() / static_cast<size_t>(s.batch);
  s.batch = 1;
  for (const size_t n : {0, 7, 20}) {
    Case one(s);
    one.x.assign(whole.x.begin() + static_cast<long>(n * in),
                 whole.x.begin() + static_cast<long>((n + 1) * in));
    one.dy.assign(whole.dy.begin() + static_cast<long>(n * out),
                  whole.dy.begin() + static_cast<long>((n + 1) * out));
    const Result got = run(one, 1);
    EXPECT_EQ(0, std::memcmp(got.y.data(), all.y.data() + n * out, out * sizeof(float)));
    EXPECT_EQ(0, std::memcmp(got.dx.data(), all.dx.data() + n * in, in * sizeof(float)));
    const size_t wrong = (n + 1) % 21;
    EXPECT_NE(0, std::memcmp(got.y.data(), all.y.data() + wrong * out, out * sizeof(float)));
  }
}

TEST(Conv2d, BitsDoNotDependOnAlignmentOrInstructionSetWithFma) {
  const Case c(shapes()[2]);
  const Result want = run(c, 1);
  testing::Shifted x(c.x, 3), w(c.weight, 1), b(c.bias, 5), y(want.y, 7);
  std::vector<uint8_t> codes(static_cast<size_t>(c.s.code_bytes()) + 1);
  conv2d_forward({c.s, x.data(), w.data(), b.data(), y.data(), codes.data() + 1}, 1);
  EXPECT_TRUE(same_bits(y.values(), want.y));
  testing::for_each_target([&](const char* target) {
    if (std::string(target) == "SCALAR") return;  // no FMA there
    const Result got = run(c, 1);
    EXPECT_TRUE(same_bits(got.y, want.y) && same_bits(got.dx, want.dx) &&
                same_bits(got.dweight, want.dweight));
  });
}

TEST(Conv2d, NotANumberIsNotLost) {
  Case c(shapes()[0]);
  c.x[28 * 5 + 5] = NAN;
  for (int corner = 0; corner < 4; ++corner) {
    const Result r = run(c, 1);
    const auto bad = std::count_if(r.y.begin(), r.y.end(), [](float v) { return std::isnan(v); });
    EXPECT_EQ(bad, 6 * 9);  // a 5x5 kernel touches 3x3 pooled outputs of each channel
    EXPECT_TRUE(std::isnan(r.dweight[0]));
  }
}

TEST(Conv2d, TiesGoToTheFirstMaximum) {
  const Conv2dShape s{
      .batch = 1, .in_channels = 1, .height = 2, .width = 2, .out_channels = 1, .kernel = 1, .pool = true};
  Case c(s);
  c.x = {5, 5, 5, 5}, c.weight = {1}, c.bias = {0}, c.dy = {3};
  EXPECT_EQ(run(c, 1).dx, (std::vector<float>{3, 0, 0, 0}));
  c.x = {1, 5, 5, 2};
  EXPECT_EQ(run(c, 1).dx, (std::vector<float>{0, 3, 0, 0}));
}

TEST(Conv2d, NamesAnImpossibleShape) {
  const Conv2dShape s{.batch = 1, .in_channels = 1, .height = 3, .width = 3, .out_channels = 1, .kernel = 5};
  try {
    conv2d_forward({s}, 1);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(e.message().find("5x5"), std::string::npos);
  }
}

}  // namespace
}  // namespace furrow::tensor::kernels
