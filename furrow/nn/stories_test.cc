// A trained Llama from another program: the logits of llama2.c's stories260K equal those of the formulas.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/models/architectures.h"
#include "furrow/models/llama2c.h"
#include "furrow/nn/block_torch.h"
#include "furrow/tensor/test_support_torch.h"

namespace furrow::nn {
namespace {

using Vector = std::vector<double>;

// llama2.c's forward pass in double, a token at a time, straight over the file: rotation of neighbouring
// pairs, keys and values kept.  Sizes and order of the tensors as models/llama2c.h has them, tied.
class Reference {
 public:
  explicit Reference(std::span<const std::byte> file) {
    int32_t header[7];
    std::memcpy(header, file.data(), sizeof(header));
    dim_ = header[0], hidden_ = header[1], layers_ = header[2], heads_ = header[3], kv_heads_ = header[4];
    vocabulary_ = header[5];
    weights_.resize((file.size() - sizeof(header)) / sizeof(float));
    std::memcpy(weights_.data(), file.data() + sizeof(header), weights_.size() * sizeof(float));
    const int kv = dim_ / heads_ * kv_heads_;
    size_t at = 0;
    const auto take = [&](int per_layer, int layers) {
      const size_t begin = at;
      at += static_cast<size_t>(per_layer) * static_cast<size_t>(layers);
      return begin;
    };
    embedding_ = take(vocabulary_ * dim_, 1);
    norm_1_ = take(dim_, layers_);
    q_ = take(dim_ * dim_, layers_), k_ = take(kv * dim_, layers_), v_ = take(kv * dim_, layers_);
    o_ = take(dim_ * dim_, layers_);
    norm_2_ = take(dim_, layers_);
    gate_ = take(hidden_ * dim_, layers_), down_ = take(hidden_ * dim_, layers_),
    up_ = take(hidden_ * dim_, layers_);
    norm_ = take(dim_, 1);
    keys_.resize(static_cast<size_t>(layers_)), values_.resize(static_cast<size_t>(layers_));
  }

  Vector next(int64_t token) {  // logits behind the token
    Vector x(static_cast<size_t>(dim_));
    for (size_t i = 0; i < x.size(); ++i) x[i] = weights_[embedding_ + static_cast<size_t>(token * dim_) + i];
    for (int layer = 0; layer < layers_; ++layer) {
      add(x, attention(norm(x, norm_1_ + at(layer, dim_)), layer));
      const Vector second = norm(x, norm_2_ + at(layer, dim_));
      Vector gate = product(gate_ + at(layer, hidden_ * dim_), hidden_, second);
      const Vector up = product(up_ + at(layer, hidden_ * dim_), hidden_, second);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      add(x, product(down_ + at(layer, hidden_ * dim_), dim_, gate));
    }
    ++position_;
    return product(embedding_, vocabulary_, norm(x, norm_));
  }

 private:
  static size_t at(int layer, int size) { return static_cast<size_t>(layer) * static_cast<size_t>(size); }
  static void add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  Vector norm(const Vector& x, size_t weight) const {
    double square = 0;
    for (const double v : x) square += v * v;
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      y[i] = x[i] / std::sqrt(square / static_cast<double>(x.size()) + 1e-5) * weights_[weight + i];
    return y;
  }
  Vector product(size_t weight, int rows, const Vector& x) const {
    Vector y(static_cast<size_t>(rows));
    for (size_t r = 0; r < y.size(); ++r) {
      for (size_t i = 0; i < x.size(); ++i) y[r] += weights_[weight + r * x.size() + i] * x[i];
    }
    return y;
  }
  void turn(Vector& x) const {
    const int size = dim_ / heads_;
    for (size_t i = 0; i < x.size(); i += 2) {
      const double angle =
          position_ * std::pow(10000.0, -static_cast<double>(i % static_cast<size_t>(size)) / size);
      const double a = x[i], b = x[i + 1];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + 1] = a * std::sin(angle) + b * std::cos(angle);
    }
  }
  Vector attention(const Vector& x, int layer) {
    const int size = dim_ / heads_, kv = size * kv_heads_;
    Vector q = product(q_ + at(layer, dim_ * dim_), dim_, x), k = product(k_ + at(layer, kv * dim_), kv, x);
    turn(q), turn(k);
    auto &keys = keys_[static_cast<size_t>(layer)], &values = values_[static_cast<size_t>(layer)];
    keys.push_back(k), values.push_back(product(v_ + at(layer, kv * dim_), kv, x));
    Vector mixed(static_cast<size_t>(dim_));
    for (int h = 0; h < heads_; ++h) {
      const size_t first = static_cast<size_t>(h / (heads_ / kv_heads_) * size),
                   own = static_cast<size_t>(h * size);
      Vector p;
      double sum = 0;
      for (const Vector& key : keys) {
        double score = 0;
        for (size_t d = 0; d < static_cast<size_t>(size); ++d) score += q[own + d] * key[first + d];
        p.push_back(std::exp(score / std::sqrt(static_cast<double>(size))));
        sum += p.back();
      }
      for (size_t j = 0; j < p.size(); ++j) {
        for (size_t d = 0; d < static_cast<size_t>(size); ++d)
          mixed[own + d] += p[j] / sum * values[j][first + d];
      }
    }
    return product(o_ + at(layer, dim_ * dim_), dim_, mixed);
  }

  int dim_, hidden_, layers_, heads_, kv_heads_, vocabulary_, position_ = 0;
  std::vector<float> weights_;
  size_t embedding_, norm_1_, q_, k_, v_, o_, norm_2_, gate_, down_, up_, norm_;
  std::vector<std::vector<Vector>> keys_, values_;
};

// The pieces of llama2.c's tokenizer file: its longest length, then score, length and bytes of each.
std::vector<std::string> pieces_of(const std::string& file) {
  std::vector<std::string> pieces;
  for (size_t at = sizeof(int32_t); at + 8 <= file.size();) {
    int32_t length = 0;
    std::memcpy(&length, file.data() + at + 4, sizeof(length));
    pieces.push_back(file.substr(at + 8, static_cast<size_t>(length)));
    at += 8 + static_cast<size_t>(length);
  }
  return pieces;
}

at::Tensor our_logits(const models::ForeignModel& model, const std::vector<int64_t>& tokens) {
  const auto time = static_cast<int64_t>(tokens.size());
  const plan::ModelSpec spec = models::describe(model.model, {{DType::kI64, {-1, time}}, model.vocabulary});
  std::map<std::string, at::Tensor> parameters;
  for (const models::NamedParameter& parameter : model.parameters) {
    const Array array = parameter.read();
    const at::Tensor value = at::empty(array.shape());
    std::memcpy(value.data_ptr(), array.bytes().data(), array.bytes().size());
    parameters[parameter.name] = value;
  }
  at::Tensor x = at::tensor(tokens, at::kLong).view({1, time});
  tensor::OpContext context;
  for (const plan::Unit& unit : spec.units) {
    std::vector<tensor::Param> params;
    for (const plan::Parameter& parameter : unit.parameters) {
      const std::string& name = parameter.tied() ? parameter.tied_to : parameter.name;
      params.push_back({parameters.at(name), static_cast<int>(params.size())});
    }
    x = make_block(unit)->forward(x, params, context);
  }
  return x.squeeze(0);
}

TEST(Stories260K, LogitsEqualTheFormulas) {
  const char* data = std::getenv("FURROW_DATA");
  const std::string folder = std::string(data == nullptr ? "data" : data) + "/stories260k";
  if (!path_exists(folder + "/stories260K.bin")) GTEST_SKIP() << "no " << folder << ": set FURROW_DATA";
  const MappedFile file(folder + "/stories260K.bin");
  const std::vector<std::string> pieces = pieces_of(read_file(folder + "/tok512.bin"));
  Reference reference(file.bytes());
  std::vector<int64_t> tokens{1};
  std::vector<double> expected;
  std::string story;
  while (tokens.size() <= 100) {  // greedy, from the token that begins a text
    const Vector logits = reference.next(tokens.back());
    expected.insert(expected.end(), logits.begin(), logits.end());
    tokens.push_back(std::max_element(logits.begin(), logits.end()) - logits.begin());
    story += pieces.at(static_cast<size_t>(tokens.back()));
  }
  tokens.pop_back();
  EXPECT_TRUE(story.starts_with(" Once upon a time, there was a little girl named Lily.")) << story;

  models::ForeignModel model = models::parse_llama2c(file.bytes());
  const at::Tensor want = at::tensor(expected, at::kDouble).view({100, 512});
  EXPECT_LT(tensor::testing::distance(our_logits(model, tokens), want), 1e-4);
  // Control: the pairs of a head's columns as the file has them, not as the blocks read them.
  for (models::NamedParameter& parameter : model.parameters) {
    if (!parameter.name.ends_with("layers.0.self_attn.q_proj.weight")) continue;
    parameter.read = [read = parameter.read] {
      Array array = read();
      const std::span<float> rows = array.as<float>();
      std::swap_ranges(rows.begin() + 64, rows.begin() + 128, rows.begin() + 2 * 64);
      return array;
    };
  }
  EXPECT_GT(tensor::testing::distance(our_logits(model, tokens), want), 1e-2);
}

}  // namespace
}  // namespace furrow::nn
