#include "furrow/tensor/kernels/recurrent.h"

#include <array>
#include <type_traits>

#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

template <class T>
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> out(values.size());
  for (size_t i = 0; i < out.size(); ++i) set_to(out[i], values[i]);
  return out;
}
template <class T>
double rounded_to(double value) {
  T number;
  set_to(number, static_cast<float>(value));
  return to_float(number);
}

template <class T>
struct Case {
  RecurrentShape s;
  std::vector<T> weight, projections, dout, dprevious;
  Case(Cell cell, int64_t batch, int64_t time, int64_t hidden) : s{cell, batch, time, hidden, hidden + 5} {
    weight = rounded<T>(random_floats(s.parts() * hidden * s.weight_stride, 1, -0.3f, 0.3f));
    projections = rounded<T>(random_floats(batch * time * s.parts() * hidden, 2, -2, 2));
    dout = rounded<T>(random_floats(batch * time * (hidden + 1), 3));
    dprevious = rounded<T>(random_floats(batch * time * (hidden + 2), 4));
  }
};

template <class T>
struct Result {
  std::vector<T> gates, cell, out, previous, dz;
};

template <class T>
Result<T> run(const Case<T>& c, int threads) {
  const RecurrentShape& s = c.s;
  const auto rows = static_cast<size_t>(s.batch * s.time), hidden = static_cast<size_t>(s.hidden);
  T seven;
  set_to(seven, 7);
  Result<T> r{c.projections,
              rounded<T>(std::vector<float>(rows * hidden, NAN)),
              std::vector<T>(rows * (hidden + 3), seven),
              std::vector<T>(rows * (hidden + 2), seven),
              {}};
  recurrent_forward(RecurrentForward<T>{s, c.weight.data(), r.gates.data(), r.cell.data(), r.out.data(),
                                        r.previous.data(), s.hidden + 3, s.hidden + 2},
                    threads);
  r.dz = r.gates;
  recurrent_backward(RecurrentBackward<T>{s, c.weight.data(), r.dz.data(), r.cell.data(), c.dout.data(),
                                          c.dprevious.data(), s.hidden + 1, s.hidden + 2},
                     threads);
  if (s.cell == Cell::kTanh) r.cell.clear();
  return r;
}

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

struct Reference {
  std::vector<double> out, dz;
};

// One sample straight from the formulas, in double; parts of the gates at [t][part][j].  What is kept is
// rounded to T as it is kept; with `wide_state` all but the state and the gradient that the next step reads.
template <class T>
struct Sample {
  const Case<T>& c;
  int64_t sample, time, hidden, parts;
  bool wide_state;
  std::vector<double> gates, h, cell;
  Sample(const Case<T>& c, int64_t sample, bool wide_state)
      : c(c),
        sample(sample),
        time(c.s.time),
        hidden(c.s.hidden),
        parts(c.s.parts()),
        wide_state(wide_state),
        gates(static_cast<size_t>(time * parts * hidden)),
        h(static_cast<size_t>((time + 1) * hidden)),
        cell(h) {}

  double weight(int64_t row, int64_t k) const { return at(c.weight, row * c.s.weight_stride + k); }
  double& gate(int64_t t, int64_t part, int64_t j) {
    return gates[static_cast<size_t>((t * parts + part) * hidden + j)];
  }
  static double at(const std::vector<T>& x, int64_t i) { return to_float(x[static_cast<size_t>(i)]); }
  static double kept(double value) { return std::is_same_v<T, float> ? value : rounded_to<T>(value); }
  double state(double value) const { return wide_state ? value : kept(value); }

  void forward() {  // h and cell have a row of zeros before the first step
    std::vector<double> now(static_cast<size_t>(hidden));
    for (int64_t t = 0; t < time; ++t) {
      for (int64_t row = 0; row < parts * hidden; ++row) {
        double z = at(c.projections, ((sample * time + t) * parts * hidden) + row);
        for (int64_t k = 0; k < hidden; ++k) z += weight(row, k) * h[static_cast<size_t>(t * hidden + k)];
        gate(t, row / hidden, row % hidden) = parts == 1 || row / hidden == 2 ? std::tanh(z) : sigmoid_of(z);
      }
      for (int64_t j = 0; j < hidden; ++j) {
        const auto after = static_cast<size_t>((t + 1) * hidden + j);
        double& cj = now[static_cast<size_t>(j)];
        if (parts == 4) cj = gate(t, 1, j) * cj + gate(t, 0, j) * gate(t, 2, j);
        h[after] = state(parts == 4 ? gate(t, 3, j) * std::tanh(cj) : gate(t, 0, j));
        cell[after] = kept(cj);
      }
    }
    for (double& gate : gates) gate = kept(gate);
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
          out[0] = state(dh * (1 - gate(t, 0, j) * gate(t, 0, j)));
          continue;
        }
        const double i = gate(t, 0, j), f = gate(t, 1, j), g = gate(t, 2, j), o = gate(t, 3, j);
        const double squashed = std::tanh(cell[static_cast<size_t>((t + 1) * hidden + j)]);
        double& carry = dc[static_cast<size_t>(j)];
        carry += dh * o * (1 - squashed * squashed);
        out[0] = state(carry * g * i * (1 - i));
        out[hidden] = state(carry * cell[static_cast<size_t>(t * hidden + j)] * f * (1 - f));
        out[2 * hidden] = state(carry * i * (1 - g * g));
        out[3 * hidden] = state(dh * squashed * o * (1 - o));
        carry *= f;
      }
    }
    return dz;
  }
};

template <class T>
Reference reference(const Case<T>& c, bool wide_state = false) {
  Reference r;
  for (int64_t sample = 0; sample < c.s.batch; ++sample) {
    Sample<T> one(c, sample, wide_state);
    one.forward();
    r.out.insert(r.out.end(), one.h.begin() + c.s.hidden, one.h.end());
    const std::vector<double> dz = one.backward();
    r.dz.insert(r.dz.end(), dz.begin(), dz.end());
  }
  return r;
}

// The first `hidden` of each row.
template <class T>
std::vector<T> columns(const std::vector<T>& x, const RecurrentShape& s) {
  std::vector<T> out;
  const auto rows = static_cast<size_t>(s.batch * s.time), width = x.size() / rows;
  for (size_t r = 0; r < rows; ++r)
    out.insert(out.end(), x.begin() + static_cast<long>(r * width),
               x.begin() + static_cast<long>(r * width) + s.hidden);
  return out;
}

// What part of `got` is not `want` rounded, 0 .. 1.
template <class T>
double differing(const std::vector<T>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return 1;
  double count = 0;
  for (size_t i = 0; i < got.size(); ++i) count += to_float(got[i]) != rounded_to<T>(want[i]) ? 1 : 0;
  return count / static_cast<double>(want.size());
}

std::vector<Case<float>> cases() {
  std::vector<Case<float>> all;
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
  for (const Case<float>& c : cases()) {
    const Reference want = reference(c);
    testing::for_each_target([&](const char* target) {
      const Result<float> got = run(c, 2);
      EXPECT_LT(testing::worst_error(columns(got.out, c.s), want.out), 3e-6) << target << " " << c.s.hidden;
      EXPECT_LT(testing::worst_error(got.dz, want.dz), 1e-5) << target << " " << c.s.hidden;
    });
  }
}

// Of 16 bits.  A sum in float32 rarely rounds to another number than the exact one; over few steps such a
// difference does not spread.  The control: a state that is not rounded between steps gives other numbers.
template <class T>
void equals_the_rounded_formula() {
  for (const Cell cell : {Cell::kTanh, Cell::kLstm}) {
    for (const auto& [batch, time, hidden] :
         {std::array<int64_t, 3>{1, 1, 1}, {3, 3, 33}, {33, 3, 48}, {5, 2, 530}}) {
      const Case<T> c(cell, batch, time, hidden);
      const Reference want = reference(c), wide = reference(c, true);
      testing::for_each_target([&](const char* target) {
        const Result<T> got = run(c, 2);
        const std::vector<T> out = columns(got.out, c.s);
        EXPECT_LE(differing(out, want.out), 0.01) << target << " " << hidden;
        EXPECT_LE(differing(got.dz, want.dz), 0.02) << target << " " << hidden;
        if (time == 1) return;
        EXPECT_GT(differing(out, wide.out), 0.04) << target << " " << hidden;
        EXPECT_GT(differing(got.dz, wide.dz), 0.04) << target << " " << hidden;
      });
    }
  }
}
TEST(Recurrent, Bfloat16IsTheFormulaRoundedAsItIsKept) { equals_the_rounded_formula<bf16>(); }
TEST(Recurrent, Float16IsTheFormulaRoundedAsItIsKept) { equals_the_rounded_formula<f16>(); }

template <class T>
void previous_is_one_step_later(const Case<T>& c) {
  const Result<T> r = run(c, 1);
  const std::vector<T> out = columns(r.out, c.s), previous = columns(r.previous, c.s);
  const auto hidden = static_cast<size_t>(c.s.hidden), length = static_cast<size_t>(c.s.time) * hidden;
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(to_float(previous[i]), i % length < hidden ? 0 : to_float(out[i - hidden])) << i;
  }
  EXPECT_EQ(to_float(r.out.back()), 7) << "beside the columns nothing is written";
  EXPECT_EQ(to_float(r.previous.back()), 7);
}
TEST(Recurrent, ThePreviousStateIsTheStateOneStepLater) {
  for (const Case<float>& c : cases()) previous_is_one_step_later(c);
  previous_is_one_step_later(Case<bf16>(Cell::kLstm, 3, 7, 33));
  previous_is_one_step_later(Case<f16>(Cell::kTanh, 3, 7, 33));
}

template <class T>
void bits_are_each_samples_own(Cell cell) {
  const Case<T> c(cell, 37, 6, 80);
  const Result<T> one = run(c, 1);
  for (const int threads : {2, 3, 5}) {
    const Result<T> many = run(c, threads);
    EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.gates, many.gates) &&
                same_bits(one.dz, many.dz) && same_bits(one.cell, many.cell));
  }
  Case<T> first = c;  // the first sample alone
  first.s.batch = 1;
  first.projections.resize(c.projections.size() / 37);
  const Result<T> alone = run(first, 1);
  EXPECT_EQ(0, std::memcmp(alone.dz.data(), one.dz.data(), alone.dz.size() * sizeof(T)));
  set_to(first.weight[0], to_float(first.weight[0]) + 0.05f);  // and a changed weight is another result
  EXPECT_NE(0, std::memcmp(run(first, 1).dz.data(), one.dz.data(), alone.dz.size() * sizeof(T)));
}
TEST(Recurrent, BitsDependNeitherOnThreadsNorOnTheOtherSamples) {
  for (const Cell cell : {Cell::kTanh, Cell::kLstm}) {
    bits_are_each_samples_own<float>(cell);
    bits_are_each_samples_own<bf16>(cell);
    bits_are_each_samples_own<f16>(cell);
  }
}

}  // namespace
}  // namespace furrow::tensor::kernels
