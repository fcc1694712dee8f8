#include "furrow/tensor/kernels/pool.h"

#include <cmath>
#include <limits>

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

// Window by window in double.
struct Plain {
  const PoolShape& s;
  const std::vector<float>& x;
  int64_t at(int64_t n, int64_t y, int64_t z, int64_t c) const {
    return ((n * s.height + y) * s.width + z) * s.channels + c;
  }
  // fn(output, place, input or -1) for every place of every window.
  template <class Fn>
  void places(const Fn& fn) const {
    int64_t out = 0;
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t r = 0; r < s.out_height(); ++r) {
        for (int64_t q = 0; q < s.out_width(); ++q) {
          for (int64_t c = 0; c < s.channels; ++c, ++out) {
            for (int64_t k = 0; k < s.kernel * s.kernel; ++k) {
              const int64_t y = r * s.stride - s.padding + k / s.kernel,
                            z = q * s.stride - s.padding + k % s.kernel;
              const bool inside = y >= 0 && y < s.height && z >= 0 && z < s.width;
              fn(out, k, inside ? at(n, y, z, c) : -1);
            }
          }
        }
      }
    }
  }
};

size_t outputs(const PoolShape& s) {
  return static_cast<size_t>(s.batch * s.out_height() * s.out_width() * s.channels);
}

const PoolShape kShapes[] = {{2, 5, 9, 8, 3, 2, 1}, {1, 16, 8, 8, 2, 2, 0},    {3, 17, 7, 5, 2, 1, 1},
                             {1, 1, 6, 6, 5, 3, 2}, {2, 33, 15, 15, 15, 1, 7}, {1, 40, 4, 9, 4, 3, 0}};

TEST(Pool, MaximaAndTheirGradientsAreThoseOfTheWindows) {
  for (const PoolShape& s : kShapes) {
    std::vector<float> x = random_floats(s.batch * s.height * s.width * s.channels, 1, -2, 2);
    x[3] = x[1];  // equals, of which the first counts
    const std::vector<float> dy = random_floats(static_cast<int64_t>(outputs(s)), 2, -1, 1);
    std::vector<float> most(outputs(s), -std::numeric_limits<float>::infinity());
    std::vector<int64_t> from(outputs(s), -1), place(outputs(s));
    Plain{s, x}.places([&](int64_t out, int64_t k, int64_t in) {
      const auto o = static_cast<size_t>(out);
      if (in < 0 || !(x[static_cast<size_t>(in)] > most[o])) return;
      most[o] = x[static_cast<size_t>(in)];
      from[o] = in;
      place[o] = k;
    });
    std::vector<double> gradient(x.size());
    for (size_t o = 0; o < most.size(); ++o) gradient[static_cast<size_t>(from[o])] += dy[o];
    testing::for_each_target([&](const char* target) {
      std::vector<float> y(most.size()), dx(x.size());
      std::vector<uint8_t> places(most.size());
      max_pool(MaxPool<float>{s, x.data(), y.data(), places.data()}, 2);
      EXPECT_TRUE(same_bits(y, most)) << target;
      EXPECT_TRUE(std::equal(places.begin(), places.end(), place.begin())) << target;
      max_pool_backward(MaxPoolBackward<float>{s, dy.data(), places.data(), dx.data()}, 2);
      EXPECT_LT(testing::worst_error(dx, gradient), 1e-6) << target;
    });
  }
}

TEST(Pool, MeansAndTheirGradientsAreThoseOfTheWindows) {
  for (const PoolShape& s : kShapes) {
    const std::vector<float> x = random_floats(s.batch * s.height * s.width * s.channels, 1, -2, 2);
    const std::vector<float> dy = random_floats(static_cast<int64_t>(outputs(s)), 2, -1, 1);
    std::vector<double> mean(outputs(s)), gradient(x.size());
    const auto all = static_cast<double>(s.kernel * s.kernel);
    Plain{s, x}.places([&](int64_t out, int64_t, int64_t in) {
      if (in < 0) return;
      mean[static_cast<size_t>(out)] += x[static_cast<size_t>(in)] / all;
      gradient[static_cast<size_t>(in)] += dy[static_cast<size_t>(out)] / all;
    });
    testing::for_each_target([&](const char* target) {
      std::vector<float> y(mean.size()), dx(x.size()), again(x.size());
      average_pool(AveragePool<float>{s, x.data(), y.data()}, 2);
      EXPECT_LT(testing::worst_error(y, mean), 1e-6) << target;
      average_pool_backward(AveragePool<float>{s, dy.data(), dx.data()}, 2);
      EXPECT_LT(testing::worst_error(dx, gradient), 1e-6) << target;
      average_pool_backward(AveragePool<float>{s, dy.data(), again.data()}, 1);
      EXPECT_TRUE(same_bits(dx, again)) << "threads";
    });
  }
}

TEST(Pool, ANumberThatIsNoneIsTheMaximum) {
  const PoolShape s{1, 1, 2, 2, 2, 2, 0};
  const float x[] = {1, NAN, 3, 2}, low[] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float y = 0;
  uint8_t place = 9;
  max_pool(MaxPool<float>{s, x, &y, &place}, 1);
  EXPECT_TRUE(std::isnan(y));
  EXPECT_EQ(place, 1);
  max_pool(MaxPool<float>{s, low, &y, &place}, 1);
  EXPECT_EQ(y, -INFINITY);
  EXPECT_EQ(place, 0);
}

}  // namespace
}  // namespace furrow::tensor::kernels
