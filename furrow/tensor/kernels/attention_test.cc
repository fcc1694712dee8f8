#include "furrow/tensor/kernels/attention.h"

#include <numeric>

#include "furrow/base/rng.h"
#include "furrow/tensor/kernels/test_support.h"

namespace furrow::tensor::kernels {
namespace {

using testing::random_floats;
using testing::same_bits;

struct Case {
  AttentionShape s;
  std::vector<float> qkv, dout, rotary;
  std::vector<uint64_t> samples;
  DropoutMask mask;
  Case(const AttentionShape& shape, float p, bool turned = false) : s(shape) {
    qkv = random_floats(s.batch * s.time * s.row(), 1, -2, 2);
    for (int64_t i = 0; turned && i < s.time * s.head_size; ++i) {
      const double turn = angle(i / s.head_size, i % (s.head_size / 2));
      rotary.push_back(
          static_cast<float>(i % s.head_size < s.head_size / 2 ? std::cos(turn) : std::sin(turn)));
    }
    dout = random_floats(s.batch * s.time * s.channels(), 2);
    for (int64_t i = 0; i < s.batch; ++i) samples.push_back(static_cast<uint64_t>(i * 37 + 5));
    mask = {.p = p, .key = {11, 22}, .step = 9, .samples = samples.data()};
  }
  double angle(int64_t time, int64_t pair) const {
    return static_cast<double>(time) *
           std::pow(100.0, -2.0 * static_cast<double>(pair) / static_cast<double>(s.head_size));
  }
  const float* table() const { return rotary.empty() ? nullptr : rotary.data(); }
  // Columns of a head, turned by the position: pairs (d, d + size / 2); `sign` -1 turns back.
  std::vector<double> turned(std::vector<double> x, int64_t time, double sign) const {
    const size_t half = x.size() / 2;
    for (size_t d = 0; d < half && !rotary.empty(); ++d) {
      const double turn = sign * angle(time, static_cast<int64_t>(d)), a = x[d], b = x[d + half];
      x[d] = a * std::cos(turn) - b * std::sin(turn);
      x[d + half] = b * std::cos(turn) + a * std::sin(turn);
    }
    return x;
  }
  std::vector<double> columns(int64_t n, int64_t t, int64_t first) const {
    const float* row = qkv.data() + (n * s.time + t) * s.row() + first;
    return {row, row + s.head_size};
  }
  const DropoutMask* dropout() const { return mask.p > 0 ? &mask : nullptr; }
  double at(const std::vector<float>& x, int64_t n, int64_t t, int64_t column, int64_t width) const {
    return x[static_cast<size_t>((n * s.time + t) * width + column)];
  }
  double factor(int64_t n, int64_t h, int64_t i, int64_t j) const {
    if (mask.p == 0) return 1;
    const uint64_t element = static_cast<uint64_t>((h * s.time + i) * s.time + j);
    const PhiloxBlock block = philox4x32(
        philox_counter(mask.step, samples[static_cast<size_t>(n)], static_cast<uint32_t>(element / 4)),
        mask.key);
    return uniform01(block[element % 4]) >= mask.p ? 1 / (1 - static_cast<double>(mask.p)) : 0;
  }
};

struct Reference {
  std::vector<double> out, dqkv, lse;
};

// Straight from the formula, in double; forward, then backward of each row of scores.
Reference reference(const Case& c) {
  const AttentionShape& s = c.s;
  const int64_t channels = s.channels(), width = s.row(), size = s.head_size;
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  Reference r{std::vector<double>(c.dout.size()), std::vector<double>(c.qkv.size()), {}};
  const auto add = [&](int64_t n, int64_t t, int64_t first, const std::vector<double>& x) {
    for (int64_t d = 0; d < size; ++d)
      r.dqkv[static_cast<size_t>((n * s.time + t) * width + first + d)] += x[static_cast<size_t>(d)];
  };
  for (int64_t row = 0; row < s.batch * s.heads * s.time; ++row) {
    const int64_t i = row % s.time, h = row / s.time % s.heads, n = row / (s.time * s.heads);
    const int64_t at_q = h * size, at_k = channels + h / s.group() * size, at_v = at_k + s.kv_channels();
    const std::vector<double> q = c.turned(c.columns(n, i, at_q), i, 1);
    std::vector<double> p(static_cast<size_t>(i + 1)), dp(p.size()), dq(q.size());
    double sum = 0, delta = 0;
    for (int64_t j = 0; j <= i; ++j) {
      const std::vector<double> k = c.turned(c.columns(n, j, at_k), j, 1);
      sum += p[static_cast<size_t>(j)] =
          std::exp(std::inner_product(q.begin(), q.end(), k.begin(), 0.0) * scale);
    }
    r.lse.push_back(std::log(sum));
    for (int64_t j = 0; j <= i; ++j) {
      const size_t sj = static_cast<size_t>(j);
      const double f = c.factor(n, h, i, j);
      const std::vector<double> v = c.columns(n, j, at_v);
      std::vector<double> dv(v.size());
      p[sj] /= sum;
      for (int64_t d = 0; d < size; ++d) {
        const double g = c.at(c.dout, n, i, h * size + d, channels), value = v[static_cast<size_t>(d)];
        r.out[static_cast<size_t>((n * s.time + i) * channels + h * size + d)] += p[sj] * f * value;
        dv[static_cast<size_t>(d)] = p[sj] * f * g;
        dp[sj] += g * value * f;
      }
      add(n, j, at_v, dv);
      delta += p[sj] * dp[sj];
    }
    for (int64_t j = 0; j <= i; ++j) {
      const double ds = p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - delta) * scale;
      const std::vector<double> k = c.turned(c.columns(n, j, at_k), j, 1);
      std::vector<double> dk(k.size());
      for (size_t d = 0; d < k.size(); ++d) dq[d] += ds * k[d], dk[d] = ds * q[d];
      add(n, j, at_k, c.turned(dk, j, -1));
    }
    add(n, i, at_q, c.turned(dq, i, -1));
  }
  return r;
}

struct Result {
  std::vector<float> out, lse, dqkv;
};

Result run(const Case& c, int threads, const std::vector<AttentionDocument>& documents = {}) {
  Result r{std::vector<float>(c.dout.size(), NAN),
           std::vector<float>(static_cast<size_t>(c.s.batch * c.s.heads * c.s.time), NAN),
           std::vector<float>(c.qkv.size(), NAN)};
  attention_forward({c.s, c.qkv.data(), r.out.data(), r.lse.data(), c.dropout(), c.table(), documents},
                    threads);
  attention_backward({c.s, c.qkv.data(), r.out.data(), r.lse.data(), c.dout.data(), r.dqkv.data(),
                      c.dropout(), c.table(), documents},
                     threads);
  return r;
}

std::vector<AttentionShape> shapes() {
  return {{2, 64, 4, 32}, {2, 37, 2, 20}, {1, 1, 1, 8}, {1, 130, 2, 16}, {3, 5, 3, 70}, {1, 33, 1, 64}};
}

TEST(Attention, EqualsTheFormula) {
  for (const AttentionShape& s : shapes()) {
    for (const float p : {0.0f, 0.3f}) {
      const Case c(s, p);
      const Reference want = reference(c);
      testing::for_each_target([&](const char*) {
        const Result got = run(c, 2);
        EXPECT_LT(testing::worst_error(got.out, want.out), 3e-6);
        EXPECT_LT(testing::worst_error(got.lse, want.lse), 1e-6);
        EXPECT_LT(testing::worst_error(got.dqkv, want.dqkv), 8e-6)
            << s.time << " " << s.head_size << " " << p;
      });
    }
  }
}

TEST(Attention, SharedKeysAndTurnedPositionsEqualTheFormula) {
  for (const auto& [s, turned] : {std::pair<AttentionShape, bool>{{2, 37, 6, 20, 3}, true},
                                  {{1, 64, 4, 32, 1}, true},
                                  {{2, 33, 3, 8}, true},
                                  {{1, 40, 4, 70, 2}, false}}) {
    const Case c(s, 0.2f, turned);
    const Reference want = reference(c);
    testing::for_each_target([&](const char*) {
      const Result got = run(c, 2);
      EXPECT_LT(testing::worst_error(got.out, want.out), 3e-6);
      EXPECT_LT(testing::worst_error(got.lse, want.lse), 1e-6);
      EXPECT_LT(testing::worst_error(got.dqkv, want.dqkv), 2e-5) << s.heads << " " << s.kv_heads;
    });
  }
}

// A head of keys for every head of queries is plain attention, to the bit.
TEST(Attention, AsManyKeyHeadsAsQueryHeadsIsTheSame) {
  Case c({2, 40, 4, 16}, 0.1f);
  const Result before = run(c, 1);
  c.s.kv_heads = 4;
  EXPECT_TRUE(same_bits(before.dqkv, run(c, 1).dqkv));
}

TEST(Attention, BitsDoNotDependOnThreads) {
  const Case c({3, 50, 4, 24, 2}, 0.1f, true);
  const Result one = run(c, 1);
  for (const int threads : {2, 5}) {
    const Result many = run(c, threads);
    EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.lse, many.lse) &&
                same_bits(one.dqkv, many.dqkv));
  }
}

TEST(Attention, ASampleDoesNotSeeTheOthers) {
  const Case whole({3, 40, 2, 32}, 0.2f);
  const Result all = run(whole, 1);
  Case last({1, 40, 2, 32}, 0.2f);
  const size_t qkv = last.qkv.size(), out = last.dout.size();
  std::copy(whole.qkv.end() - static_cast<long>(qkv), whole.qkv.end(), last.qkv.begin());
  std::copy(whole.dout.end() - static_cast<long>(out), whole.dout.end(), last.dout.begin());
  last.samples[0] = whole.samples[2];
  const Result one = run(last, 1);
  EXPECT_EQ(0, std::memcmp(one.out.data(), all.out.data() + 2 * out, out * sizeof(float)));
  EXPECT_EQ(0, std::memcmp(one.dqkv.data(), all.dqkv.data() + 2 * qkv, qkv * sizeof(float)));
  last.samples[0] = whole.samples[1];  // another sample's mask is another result
  EXPECT_NE(0, std::memcmp(run(last, 1).out.data(), all.out.data() + 2 * out, out * sizeof(float)));
}

// Documents that share a row have the bits that they have in rows of their own, positions included.
TEST(Attention, ADocumentIsARowOfItsOwn) {
  for (const bool turned : {false, true}) {
    const Case c({2, 70, 4, 24, 2}, 0, turned);
    const std::vector<AttentionDocument> documents = {
        {0, 0, 1}, {0, 1, 33}, {0, 34, 36}, {1, 0, 50}, {1, 50, 20}};
    const Result all = run(c, 1, documents);
    const Result again = run(c, 3, documents);
    EXPECT_TRUE(same_bits(all.out, again.out) && same_bits(all.lse, again.lse) &&
                same_bits(all.dqkv, again.dqkv));
    for (const AttentionDocument& document : documents) {
      Case own({1, document.length, 4, 24, 2}, 0);
      const auto cut = [&](const std::vector<float>& x, int64_t width) {
        const auto begin = x.begin() + (document.sample * 70 + document.begin) * width;
        return std::vector<float>(begin, begin + document.length * width);
      };
      own.qkv = cut(c.qkv, c.s.row());
      own.dout = cut(c.dout, c.s.channels());
      own.rotary = c.rotary;
      const Result one = run(own, 1);
      EXPECT_TRUE(same_bits(cut(all.out, c.s.channels()), one.out));
      EXPECT_TRUE(same_bits(cut(all.dqkv, c.s.row()), one.dqkv));
      for (int64_t h = 0; h < 4; ++h) {
        const auto sums = all.lse.begin() + (document.sample * 4 + h) * 70 + document.begin;
        EXPECT_TRUE(std::equal(sums, sums + document.length, one.lse.begin() + h * document.length));
      }
    }
    EXPECT_FALSE(same_bits(run(c, 1).out, all.out));  // control: without documents a row is one
  }
}

TEST(Attention, ADocumentThatFillsItsRowChangesNothing) {
  const Case c({2, 40, 4, 16}, 0.3f, true);
  const Result rows = run(c, 2), documents = run(c, 2, {{0, 0, 40}, {1, 0, 40}});
  EXPECT_TRUE(same_bits(rows.out, documents.out) && same_bits(rows.dqkv, documents.dqkv));
}

TEST(Attention, AQueryDoesNotSeeLaterKeys) {
  Case c({1, 70, 1, 16}, 0);
  const Result before = run(c, 1);
  for (size_t i = 41 * 48; i < c.qkv.size(); ++i) c.qkv[i] = NAN;  // from time 41 on
  const Result after = run(c, 1);
  EXPECT_EQ(0,
            std::memcmp(before.out.data(), after.out.data(), 32 * 16 * sizeof(float)));  // panels before it
  for (size_t i = 32 * 16; i < 41 * 16; ++i) EXPECT_FALSE(std::isnan(after.lse[i / 16]));
  EXPECT_TRUE(std::isnan(after.out[41 * 16]));
}

}  // namespace
}  // namespace furrow::tensor::kernels
