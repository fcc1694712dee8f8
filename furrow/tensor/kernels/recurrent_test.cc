#include "furrow/tensor/kernels/recurrent.h"

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct Case {
  RecurrentShape s;
  std::vector<float> weight, projections, dout, dprevious;
  Case(Cell cell, int64_t batch, int64_t time, int64_t hidden) : s{cell, batch, time, hidden, hidden + 5} {
    weight = random_floats(s.parts() * hidden * s.weight_stride, 1, -0.3f, 0.3f);
    projections = random_floats(batch * time * s.parts() * hidden, 2, -2, 2);
    dout = random_floats(batch * time * (hidden + 1), 3);
    dprevious = random_floats(batch * time * (hidden + 2), 4);
  }
};

struct Result {
  std::vector<float> gates, cell, out, previous, dz;
};

Result run(const Case& c, int threads) {
  const RecurrentShape& s = c.s;
  const auto rows = static_cast<size_t>(s.batch * s.time), hidden = static_cast<size_t>(s.hidden);
  Result r{c.projections,
           std::vector<float>(rows * hidden, NAN),
           std::vector<float>(rows * (hidden + 3), 7),
           std::vector<float>(rows * (hidden + 2), 7),
           {}};
  recurrent_forward(RecurrentForward<float>{s, c.weight.data(), r.gates.data(), r.cell.data(), r.out.data(), r.previous.data(),
                     s.hidden + 3, s.hidden + 2},
                    threads);
  r.dz = r.gates;
  recurrent_backward(RecurrentBackward<float>{s, c.weight.data(), r.dz.data(), r.cell.data(), c.dout.data(), c.dprevious.data(),
                      s.hidden + 1, s.hidden + 2},
                     threads);
  if (s.cell == Cell::kTanh) r.cell.clear();
  return r;
}

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

struct Reference {
  std::vector<double> out, dz;
};

// One sample straight from the formulas, in double; parts of the gates at [t][part][j].
struct Sample {
  const Case& c;
  int64_t sample, time, hidden, parts;
  std::vector<double> gates, h, cell;
  Sample(const Case& c, int64_t sample)
      : c(c),
        sample(sample),
        time(c.s.time),
        hidden(c.s.hidden),
        parts(c.s.parts()),
        gates(static_cast<size_t>(time * parts * hidden)),
        h(static_cast<size_t>((time + 1) * hidden)),
        cell(h) {}

  double weight(int64_t row, int64_t k) const {
    return c.weight[static_cast<size_t>(row * c.s.weight_stride + k)];
  }
  double& gate(int64_t t, int64_t part, int64_t j) {
    return gates[static_cast<size_t>((t * parts + part) * hidden + j)];
  }
  static double at(const std::vector<float>& x, int64_t i) { return x[static_cast<size_t>(i)]; }

  void forward() {  // h and cell have a row of zeros before the first step
    for (int64_t t = 0; t < time; ++t) {
      for (int64_t row = 0; row < parts * hidden; ++row) {
        double z = at(c.projections, ((sample * time + t) * parts * hidden) + row);
        for (int64_t k = 0; k < hidden; ++k) z += weight(row, k) * h[static_cast<size_t>(t * hidden + k)];
        gate(t, row / hidden, row % hidden) = parts == 1 || row / hidden == 2 ? std::tanh(z) : sigmoid_of(z);
      }
      for (int64_t j = 0; j < hidden; ++j) {
        const size_t before = static_cast<size_t>(t * hidden + j), now = before + static_cast<size_t>(hidden);
        if (parts == 4) cell[now] = gate(t, 1, j) * cell[before] + gate(t, 0, j) * gate(t, 2, j);
        h[now] = parts == 4 ? gate(t, 3, j) * std::tanh(cell[now]) : gate(t, 0, j);
      }
    }
  }

  std::vector<double> backward() {
    std::vector<double> dz(gates.size()), dc(static_cast<size_t>(hidden));
    for (int64_t t = time - 1; t >= 0; --t) {
      for (int64_t j = 0; j < hidden; ++j) {
        const int64_t row = sample * time + t;
        double dh = at(c.dout, row * (hidden + 1) + j);
        if (t + 1 < time) dh += at(c.dprevious, (row + 1) * (hidden + 2) + j);
        for (int64_t k = 0; k < parts * hidden && t + 1 < time; ++k)
          dh += dz[static_cast<size_t>((t + 1) * parts * hidden + k)] * weight(k, j);
        double* out = dz.data() + t * parts * hidden + j;
        if (parts == 1) {
          out[0] = dh * (1 - gate(t, 0, j) * gate(t, 0, j));
          continue;
        }
        const double i = gate(t, 0, j), f = gate(t, 1, j), g = gate(t, 2, j), o = gate(t, 3, j);
        const double squashed = std::tanh(cell[static_cast<size_t>((t + 1) * hidden + j)]);
        double& carry = dc[static_cast<size_t>(j)];
        carry += dh * o * (1 - squashed * squashed);
        out[0] = carry * g * i * (1 - i);
        out[hidden] = carry * cell[static_cast<size_t>(t * hidden + j)] * f * (1 - f);
        out[2 * hidden] = carry * i * (1 - g * g);
        out[3 * hidden] = dh * squashed * o * (1 - o);
        carry *= f;
      }
    }
    return dz;
  }
};

Reference reference(const Case& c) {
  Reference r;
  for (int64_t sample = 0; sample < c.s.batch; ++sample) {
    Sample one(c, sample);
    one.forward();
    r.out.insert(r.out.end(), one.h.begin() + c.s.hidden, one.h.end());
    const std::vector<double> dz = one.backward();
    r.dz.insert(r.dz.end(), dz.begin(), dz.end());
  }
  return r;
}

// The first `hidden` of each row.
std::vector<float> columns(const std::vector<float>& x, const RecurrentShape& s) {
  std::vector<float> out;
  const auto rows = static_cast<size_t>(s.batch * s.time), width = x.size() / rows;
  for (size_t r = 0; r < rows; ++r)
    out.insert(out.end(), x.begin() + static_cast<long>(r * width),
               x.begin() + static_cast<long>(r * width) + s.hidden);
  return out;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Cell cell : {Cell::kTanh, Cell::kLstm}) {
    all.emplace_back(cell, 1, 1, 1);
    all.emplace_back(cell, 3, 7, 33);
    all.emplace_back(cell, 33, 4, 48);
    all.emplace_back(cell, 16, 9, 32);
    all.emplace_back(cell, 2, 20, 70);
  }
  return all;
}

TEST(Recurrent, EqualsTheFormula) {
  for (const Case& c : cases()) {
    const Reference want = reference(c);
    testing::for_each_target([&](const char* target) {
      const Result got = run(c, 2);
      EXPECT_LT(testing::worst_error(columns(got.out, c.s), want.out), 3e-6) << target << " " << c.s.hidden;
      EXPECT_LT(testing::worst_error(got.dz, want.dz), 1e-5) << target << " " << c.s.hidden;
    });
  }
}

TEST(Recurrent, ThePreviousStateIsTheStateOneStepLater) {
  for (const Case& c : cases()) {
    const Result r = run(c, 1);
    const std::vector<float> out = columns(r.out, c.s), previous = columns(r.previous, c.s);
    const auto hidden = static_cast<size_t>(c.s.hidden), length = static_cast<size_t>(c.s.time) * hidden;
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(previous[i], i % length < hidden ? 0 : out[i - hidden]) << i;
    }
    EXPECT_EQ(r.out.back(), 7) << "beside the columns nothing is written";
    EXPECT_EQ(r.previous.back(), 7);
  }
}

TEST(Recurrent, BitsDependNeitherOnThreadsNorOnTheOtherSamples) {
  for (const Cell cell : {Cell::kTanh, Cell::kLstm}) {
    const Case c(cell, 37, 6, 80);
    const Result one = run(c, 1);
    for (const int threads : {2, 3, 5}) {
      const Result many = run(c, threads);
      EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.gates, many.gates) &&
                  same_bits(one.dz, many.dz) && same_bits(one.cell, many.cell));
    }
    Case first = c;  // the first sample alone
    first.s.batch = 1;
    first.projections.resize(c.projections.size() / 37);
    const Result alone = run(first, 1);
    EXPECT_EQ(0, std::memcmp(alone.dz.data(), one.dz.data(), alone.dz.size() * sizeof(float)));
    first.weight[0] += 0.01f;  // and a changed weight is another result
    EXPECT_NE(0, std::memcmp(run(first, 1).dz.data(), one.dz.data(), alone.dz.size() * sizeof(float)));
  }
}

}  // namespace
}  // namespace furrow::tensor::kernels
