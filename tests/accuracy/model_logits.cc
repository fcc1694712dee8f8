// model_logits MODEL TOKENS OUT: what the network of a model folder says, for transformers_test.py.
//
// TOKENS has a sample a line, numbers between spaces, all of one length.  OUT gets float32 numbers, [samples,
// time, vocabulary].
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/models/architectures.h"
#include "furrow/nn/block_torch.h"
#include "furrow/storage/artefact.h"

namespace furrow {
namespace {

at::Tensor tokens_of(const std::string& path) {
  std::vector<int64_t> tokens;
  int64_t samples = 0;
  for (const std::string& line : split(read_file(path), '\n')) {
    if (line.empty()) continue;
    ++samples;
    for (const std::string& word : split(line, ' ')) parse_int(word, tokens.emplace_back());
  }
  return at::tensor(tokens, at::kLong).view({samples, -1});
}

plan::ModelSpec network_of(const storage::Artefact& artefact, int64_t time) {
  const std::string text = fmt::format("[training]\nsteps = 1\ndataset = \"text\"\nseq_len = {}\n[model]\n{}",
                                       time, artefact.model);
  return models::describe(config::parse(text, "model.toml").model,
                          {{DType::kI64, {-1, time}}, artefact.outputs.at(0).shape.back()});
}

at::Tensor logits(const std::string& folder, at::Tensor x) {
  const plan::ModelSpec spec = network_of(storage::read_artefact(folder), x.size(1));
  const storage::SafetensorsFile file = storage::open_parameters(folder);
  std::map<std::string, at::Tensor> values;
  for (const storage::TensorInfo& tensor : file.tensors()) {
    const at::Tensor value = at::empty(tensor.shape);
    const auto bytes = file.expect(tensor.name, DType::kF32, tensor.shape);
    std::ranges::copy(bytes, static_cast<std::byte*>(value.data_ptr()));
    values[tensor.name] = value;
  }
  tensor::OpContext context;
  for (const plan::Unit& unit : spec.units) {
    std::vector<tensor::Param> params;
    for (const plan::Parameter& parameter : unit.parameters) {
      const std::string& name = parameter.tied() ? parameter.tied_to : parameter.name;
      params.push_back({values.at(name), static_cast<int>(params.size())});
    }
    x = nn::make_block(unit)->forward(x, params, context);
  }
  return x.contiguous();
}

int run(int count, char** words) {
  if (count != 4) {
    std::fputs("model_logits MODEL TOKENS OUT\n", stderr);
    return 2;
  }
  try {
    const at::Tensor y = logits(words[1], tokens_of(words[2]));
    write_file_atomic(words[3], {static_cast<const std::byte*>(y.data_ptr()), y.nbytes()});
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "model_logits: {}\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace furrow

int main(int count, char** words) { return furrow::run(count, words); }
