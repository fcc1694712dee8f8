#include "furrow/tensor/kernels/elementwise.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

// Units in the last place of `want` as a float; results below the normal range count absolutely.
double ulps(float got, double want) {
  if (std::isnan(got)) return INFINITY;
  const double size = std::max(std::abs(want), 0x1p-126);
  const double unit = std::ldexp(1.0, std::ilogb(size) - 23);
  return std::abs(got - want) / unit;
}

std::vector<float> line(float low, float high, int64_t n) {
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) {
    out.push_back(low + (high - low) * static_cast<float>(i) / static_cast<float>(n - 1));
  }
  return out;
}

template <class Fn>
double worst_ulps(const std::vector<float>& x, const std::vector<float>& y, const Fn& exact) {
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, ulps(y[i], exact(static_cast<double>(x[i]))));
  return worst;
}

double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }

TEST(Elementwise, ExponentialIsWithinOneAndAHalfUlp) {
  const std::vector<float> x = line(-87.3f, 0, 400001);
  std::vector<float> y(x.size());
  testing::for_each_target([&](const char* target) {
    exp_nonpositive(static_cast<int64_t>(x.size()), x.data(), y.data(), 1);
    const double worst = worst_ulps(x, y, [](double v) { return std::exp(v); });
    RecordProperty(target, std::to_string(worst));
    EXPECT_LE(worst, std::string(target) == "SCALAR" ? 2.5 : 1.5);
  });
  const float special[] = {0, -88, -INFINITY, NAN};
  exp_nonpositive(4, special, y.data(), 1);
  EXPECT_TRUE(y[0] == 1 && y[1] == 0 && y[2] == 0 && std::isnan(y[3]));
}

TEST(Elementwise, GeluIsWithinItsBound) {
  std::vector<float> x = line(-13, 13, 400001);
  for (const float tiny : {1e-20f, -1e-20f, 1e-6f, -1e-6f, 100.0f}) x.push_back(tiny);
  std::vector<float> y(x.size()), slope(x.size());
  testing::for_each_target([&](const char* target) {
    activation_forward(Activation::kGelu, static_cast<int64_t>(x.size()), x.data(), y.data(), slope.data(),
                       1);
    const double worst = worst_ulps(x, y, [](double v) { return v * phi(v); });
    EXPECT_LE(worst, std::string(target) == "SCALAR" ? 80 : 7) << target;
    double worst_slope = 0;  // crosses zero near -0.75: absolute
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      worst_slope = std::max(worst_slope, std::abs(slope[i] - (phi(v) + v * density(v))));
    }
    EXPECT_LE(worst_slope, 3e-7) << target;
  });
  const float special[] = {INFINITY, NAN, 0, 1e30f, -1e30f};
  activation_forward(Activation::kGelu, 5, special, y.data(), slope.data(), 1);
  EXPECT_TRUE(y[0] == INFINITY && std::isnan(y[1]) && y[2] == 0 && y[3] == 1e30f && y[4] == 0 &&
              slope[3] == 1);
}

TEST(Elementwise, GeluTanhIsWithinItsBound) {
  const std::vector<float> x = line(-12, 12, 200001);
  std::vector<float> y(x.size()), slope(x.size());
  testing::for_each_target([&](const char* target) {
    activation_forward(Activation::kGeluTanh, static_cast<int64_t>(x.size()), x.data(), y.data(),
                       slope.data(), 1);
    double worst = 0, worst_slope = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i], c = std::sqrt(2 / M_PI), u = c * (v + 0.044715 * v * v * v), t = std::tanh(u);
      const double want = 0.5 * v * (1 + t), du = c * (1 + 3 * 0.044715 * v * v);
      worst = std::max(worst, std::abs(y[i] - want) / std::max(1.0, std::abs(want)));
      worst_slope = std::max(worst_slope, std::abs(slope[i] - (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * du)));
    }
    EXPECT_LE(worst, 3e-7) << target;
    EXPECT_LE(worst_slope, 6e-7) << target;
  });
}

TEST(Elementwise, ActivationsAndSlopesAreWithinTheirBounds) {
  struct Form {
    Activation activation;
    double (*value)(double);
    double (*slope)(double);
    double bound;
  };
  static const auto logistic = [](double v) { return 1 / (1 + std::exp(-v)); };
  const Form forms[] = {
      {Activation::kSilu, [](double v) { return v * logistic(v); },
       [](double v) { return logistic(v) * (1 + v * logistic(-v)); }, 4},
      {Activation::kSoftplus, [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v))); },
       [](double v) { return logistic(v); }, 4},
      {Activation::kTanh, [](double v) { return std::tanh(v); },
       [](double v) { return 1 - std::tanh(v) * std::tanh(v); }, 4},
      {Activation::kSigmoid, [](double v) { return logistic(v); },
       [](double v) { return logistic(v) * logistic(-v); }, 4}};
  std::vector<float> x = line(-30, 30, 200003);
  for (const float tiny : {1e-20f, -1e-20f, 1e-6f, -1e-6f, 80.0f, -80.0f}) x.push_back(tiny);
  for (const Form& form : forms) {
    testing::for_each_target([&](const char* target) {
      std::vector<float> y(x.size()), slope(x.size()), moved(x.size());
      const auto n = static_cast<int64_t>(x.size());
      activation_forward(form.activation, n, x.data(), y.data(), slope.data(), 1);
      EXPECT_LE(worst_ulps(x, y, form.value), std::string(target) == "SCALAR" ? 8 : form.bound) << target;
      double worst = 0;
      for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(slope[i] - form.slope(x[i])));
      EXPECT_LE(worst, 4e-7) << target;
      // A bias of columns is added first, whatever the length of a row.
      const int64_t columns = 37, rows = n / columns;
      std::vector<float> bias(columns), sum(static_cast<size_t>(rows * columns)), alone(sum.size());
      for (size_t c = 0; c < bias.size(); ++c) bias[c] = static_cast<float>(c) / 16 - 1;
      for (size_t i = 0; i < sum.size(); ++i) sum[i] = x[i] + bias[i % bias.size()];
      BiasActivation<float> args{form.activation, rows, columns, x.data(), bias.data(), moved.data()};
      bias_activation(args, 2);
      activation_forward(form.activation, rows * columns, sum.data(), alone.data(), nullptr, 1);
      moved.resize(alone.size());
      EXPECT_TRUE(same_bits(moved, alone)) << target;
    });
  }
}

// From what each reads: the output of ReLU, tanh and sigmoid, the slope of the others.
TEST(Elementwise, ActivationGradientsReadOutputOrSlope) {
  const std::vector<float> x = line(-4, 4, 1000), dy = random_floats(1000, 2, -1, 1);
  for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kSilu,
                                      Activation::kSoftplus, Activation::kTanh, Activation::kSigmoid}) {
    std::vector<float> y(1000), slope(1000), dz(1000);
    activation_forward(activation, 1000, x.data(), y.data(), slope.data(), 1);
    ActivationBackward args{
        .rows = 40, .columns = 25, .activation = activation, .dy = dy.data(), .dz = dz.data()};
    (has_slope(activation) ? args.slope : args.y) = has_slope(activation) ? slope.data() : y.data();
    activation_backward(args, 2);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(dz[i], dy[i] * slope[i], 3e-7);
  }
}

TEST(Elementwise, SigmoidAndTanhAreWithinThreeUlp) {
  std::vector<float> x = line(-30, 30, 300001);
  for (const float small : line(-1, 1, 100001)) x.push_back(small);
  for (const float tiny : {1e-20f, -1e-20f, 1e-6f, -1e-6f, 0.625f, -0.625f}) x.push_back(tiny);
  std::vector<float> y(x.size());
  testing::for_each_target([&](const char* target) {
    const double bound = std::string(target) == "SCALAR" ? 5 : 3;
    sigmoid(static_cast<int64_t>(x.size()), x.data(), y.data(), 1);
    EXPECT_LE(worst_ulps(x, y, [](double v) { return 1 / (1 + std::exp(-v)); }), bound) << target;
    tanh(static_cast<int64_t>(x.size()), x.data(), y.data(), 1);
    EXPECT_LE(worst_ulps(x, y, [](double v) { return std::tanh(v); }), bound) << target;
    const float special[] = {INFINITY, -INFINITY, NAN, 0, 1e30f, -1e30f};
    sigmoid(6, special, y.data(), 1);
    EXPECT_TRUE(y[0] == 1 && y[1] == 0 && std::isnan(y[2]) && y[3] == 0.5f && y[4] == 1 && y[5] == 0);
    tanh(6, special, y.data(), 1);
    EXPECT_TRUE(y[0] == 1 && y[1] == -1 && std::isnan(y[2]) && y[3] == 0 && y[4] == 1 && y[5] == -1);
  });
}

TEST(Elementwise, SwigluEqualsTheFormula) {
  const int64_t rows = 61, columns = 37;
  const size_t n = static_cast<size_t>(columns);
  const std::vector<float> gate_up = random_floats(rows * 2 * columns, 1, -4, 4),
                           dy = random_floats(rows * columns, 2);
  std::vector<double> want, want_gradient(gate_up.size());
  for (size_t i = 0; i < dy.size(); ++i) {
    const size_t at = i / n * 2 * n + i % n;
    const double z = gate_up[at], up = gate_up[at + n], s = 1 / (1 + std::exp(-z));
    want.push_back(z * s * up);
    want_gradient[at] = dy[i] * up * (s + z * s * (1 - s));
    want_gradient[at + n] = dy[i] * z * s;
  }
  testing::for_each_target([&](const char*) {
    std::vector<float> y(dy.size()), gradient = gate_up;
    swiglu_forward(rows, columns, gate_up.data(), y.data(), 2);
    swiglu_backward(rows, columns, gradient.data(), dy.data(), gradient.data(), 2);
    EXPECT_LT(testing::worst_error(y, want), 6e-7);
    EXPECT_LT(testing::worst_error(gradient, want_gradient), 6e-7);
  });
}

TEST(Elementwise, ReluAddScale) {
  const std::vector<float> a = random_floats(70001, 1), b = random_floats(70001, 2);
  std::vector<float> out(a.size()), slope(a.size());
  const int64_t n = static_cast<int64_t>(a.size());
  add(n, a.data(), b.data(), out.data(), 2);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(out[i], a[i] + b[i]);
  scale(n, 0.3f, a.data(), out.data(), 2);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(out[i], 0.3f * a[i]);
  activation_forward(Activation::kRelu, n, a.data(), out.data(), slope.data(), 2);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_TRUE(out[i] == std::max(0.0f, a[i]) && slope[i] == (a[i] > 0));
}

TEST(Elementwise, BitsDoNotDependOnOffset) {
  const std::vector<float> x = random_floats(100, 1, -5, 5);
  std::vector<float> whole(100), part(100);
  activation_forward(Activation::kGelu, 100, x.data(), whole.data(), nullptr, 1);
  for (int64_t from = 0, n = 1; from < 100; from += n, n += 3) {
    activation_forward(Activation::kGelu, std::min<int64_t>(n, 100 - from), x.data() + from,
                       part.data() + from, nullptr, 1);
  }
  EXPECT_TRUE(same_bits(whole, part));
}

TEST(ActivationBackward, GateAndColumnSums) {
  const int64_t rows = 203, columns = 37;
  const std::vector<float> dy = random_floats(rows * columns, 1), y = random_floats(rows * columns, 2);
  for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
    std::vector<double> want_dz, want_db(static_cast<size_t>(columns));
    for (size_t i = 0; i < dy.size(); ++i) {
      const double gate = activation == Activation::kNone   ? 1
                          : activation == Activation::kRelu ? y[i] > 0
                                                            : y[i];
      want_dz.push_back(dy[i] * gate);
      want_db[i % static_cast<size_t>(columns)] += want_dz.back();
    }
    testing::for_each_target([&](const char*) {
      std::vector<float> dz = dy, db(static_cast<size_t>(columns)), db3(db), dz3(dy);
      activation_backward({rows, columns, activation, dz.data(), y.data(), y.data(), dz.data(), db.data()},
                          1);
      EXPECT_LT(testing::worst_error(dz, want_dz), 1e-7);
      EXPECT_LT(testing::worst_error(db, want_db), 3e-6);
      activation_backward({rows, columns, activation, dy.data(), y.data(), y.data(), dz3.data(), db3.data()},
                          3);
      EXPECT_TRUE(same_bits(dz, dz3) && same_bits(db, db3));
    });
  }
}

}  // namespace
}  // namespace furrow::tensor::kernels
