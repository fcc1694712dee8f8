#include "furrow/observe/pictures.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>

#include "furrow/base/file.h"
#include "furrow/base/rng.h"
#include "furrow/data/loader.h"
#include "furrow/plan/topology.h"
#include "furrow/preprocess/tokenizer.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/pictures_torch.h"

namespace furrow::train {
namespace {

constexpr int64_t kGridColumns = 8, kGridImages = 32;
constexpr int64_t kPromptTokens = 16, kWrittenTokens = 256;
constexpr double kTemperature = 0.8;

// The output of a unit for these samples, by way of all that it reads.
at::Tensor run_to(const PictureRequest& request, int32_t last, at::Tensor value,
                  std::span<const int64_t> sample_ids = {}) {
  tensor::OpContext context;
  context.threads = request.rank.threads;
  context.seed = request.rank.seed;
  context.sample_ids = sample_ids;
  const at::AutoGradMode grad_mode(false);
  for (const int32_t unit : plan::chain_to(request.model.spec(), last)) {
    const at::Tensor& statistics = request.model.unit(unit).statistics;
    context.statistics = {};
    if (statistics.defined())
      context.statistics = {statistics.const_data_ptr<float>(), static_cast<size_t>(statistics.numel())};
    if (value.is_floating_point())
      value = value.to(tensor::scalar_type(request.model.spec().units[unit].compute));
    value = request.model.block(unit).forward(value, request.model.params(unit), context);
  }
  return value.to(at::kFloat).contiguous();
}

at::Tensor run_model(const PictureRequest& request, at::Tensor value) {
  return run_to(request, plan::heads_of(request.model.spec()).front().unit, std::move(value));
}

at::Tensor tensor_of(const ArrayView& array) {
  return at::from_blob(array.bytes.data(), array.shape, tensor::scalar_type(array.dtype));
}

// fn(batch, scores [rows][classes]) for every batch of the split.
void for_each_batch(const PictureRequest& request, const data::Source& source,
                    const std::function<void(const data::Batch&, std::span<const float>)>& fn) {
  data::Loader loader(source, data::SampleOrder(request.rank.seed, source.size(), /*shuffle=*/false),
                      {.sizes = {request.batch_size}, .end = source.size(), .prefetch = 1});
  while (const data::Batch* batch = loader.next()) {
    if (request.rank.cancel != nullptr && request.rank.cancel->cancelled()) return;
    const at::Tensor scores = run_model(request, tensor_of(batch->arrays[0]));
    fn(*batch, {scores.const_data_ptr<float>(), static_cast<size_t>(scores.numel())});
    loader.release();
  }
}

// Pixels as they were before the normaliser.
observe::GridImage image_of(std::span<const float> values, const Shape& shape,
                            const data::Preprocessing& fitted) {
  const std::vector<double> means = preprocess::state_numbers(fitted, "mean"),
                            stds = preprocess::state_numbers(fitted, "std");
  const auto plane = static_cast<size_t>(shape[1] * shape[2]);
  observe::GridImage image{shape[1], shape[2], shape[0], std::vector<uint8_t>(values.size()), {}};
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t channel = i / plane, of_means = means.size() > 1 ? channel : 0;
    const double pixel = 255 * (static_cast<double>(values[i]) * stds[of_means] + means[of_means]);
    image.pixels[i % plane * static_cast<size_t>(shape[0]) + channel] =
        static_cast<uint8_t>(std::clamp(pixel + 0.5, 0.0, 255.0));
  }
  return image;
}

std::vector<std::string> draw_classifier(const PictureRequest& request, const data::Source& source) {
  const auto classes = static_cast<size_t>(source.classes());
  const Shape& shape = source.fields()[0].shape;
  const bool images =
      shape.size() == 3 && (shape[0] == 1 || shape[0] == 3) && request.dataset.preprocessing.contains("mean");
  observe::ConfusionMatrix confusion(source.classes());
  std::vector<observe::GridImage> grid;
  for_each_batch(request, source, [&](const data::Batch& batch, std::span<const float> scores) {
    const auto input = images ? batch.arrays[0].as<float>() : std::span<float>();
    const auto target = batch.arrays[1].as<int64_t>();
    for (size_t row = 0; row < target.size(); ++row) {
      const auto own = scores.subspan(row * classes, classes);
      const int64_t predicted = std::ranges::max_element(own) - own.begin();
      confusion.add(target[row], predicted);
      if (!images || static_cast<int64_t>(grid.size()) == kGridImages) continue;
      const size_t pixels = input.size() / target.size();
      grid.push_back(image_of(input.subspan(row * pixels, pixels), shape, request.dataset.preprocessing));
      grid.back().marked = predicted != target[row];
      grid.back().caption = grid.back().marked ? fmt::format("{}, not {}", predicted, target[row])
                                               : fmt::format("{}", predicted);
    }
  });
  std::vector<std::string> names{"confusion.svg"};
  write_file_atomic(request.folder + "/confusion.svg", observe::confusion_svg(confusion, "Answers by class"));
  if (grid.empty()) return names;
  names.emplace_back("samples.svg");
  write_file_atomic(request.folder + "/samples.svg",
                    observe::image_grid_svg(grid, kGridColumns, "Samples and answers"));
  return names;
}

// What the generator makes of the noise of the first sample ids.
std::vector<std::string> draw_generated(const PictureRequest& request, int32_t generator) {
  const Shape& shape = request.dataset.train->fields()[0].shape;
  if (shape.size() != 3 || (shape[0] != 1 && shape[0] != 3) ||
      !request.dataset.preprocessing.contains("mean"))
    return {};
  std::vector<int64_t> ids(kGridImages * 2);
  std::iota(ids.begin(), ids.end(), int64_t{0});
  const at::Tensor made = run_to(request, generator, at::zeros({static_cast<int64_t>(ids.size()), 1}), ids);
  std::vector<observe::GridImage> grid;
  const auto pixels = static_cast<size_t>(num_elements(shape));
  for (size_t i = 0; i < ids.size(); ++i)
    grid.push_back(
        image_of({made.const_data_ptr<float>() + i * pixels, pixels}, shape, request.dataset.preprocessing));
  write_file_atomic(request.folder + "/samples.svg",
                    observe::image_grid_svg(grid, kGridColumns, "Generated samples"));
  return {"samples.svg"};
}

// One of the classes, each with its probability at the temperature; `uniform` in [0, 1).
int64_t draw(std::span<const float> scores, double uniform) {
  const float most = *std::ranges::max_element(scores);
  std::vector<double> weights;
  for (const float score : scores)
    weights.push_back(std::exp(static_cast<double>(score - most) / kTemperature));
  double left = uniform * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<int64_t>(i);
  }
  return std::ranges::max_element(scores) - scores.begin();
}

std::vector<std::string> draw_text(const PictureRequest& request, const data::Source& source) {
  const auto tokenizer = preprocess::load_as<preprocess::Tokenizer>(request.dataset.preprocessing);
  const auto context = static_cast<size_t>(source.fields()[0].shape[0]);
  Array first(DType::kI64, {1, static_cast<int64_t>(context)});
  std::vector<Array> others;
  std::vector<ArrayView> views{first.view()};
  for (size_t f = 1; f < source.fields().size(); ++f) {
    others.emplace_back(DType::kI64, Shape{1, static_cast<int64_t>(context)});
    views.push_back(others.back().view());
  }
  source.read(std::vector<int64_t>{0}, views);
  std::vector<int64_t> tokens(first.view().as<int64_t>().begin(), first.view().as<int64_t>().end());
  tokens.resize(std::min<size_t>(context, kPromptTokens));
  const size_t prompt = tokens.size();
  const auto classes = static_cast<size_t>(source.classes());
  const Philox random(request.rank.seed, RandomPurpose::kSample, "samples.txt");
  while (tokens.size() < prompt + kWrittenTokens) {
    if (request.rank.cancel != nullptr && request.rank.cancel->cancelled()) return {};
    const size_t seen = std::min(tokens.size(), context);
    const at::Tensor input =
        at::from_blob(tokens.data() + tokens.size() - seen, {1, static_cast<int64_t>(seen)}, at::kLong);
    const at::Tensor scores = run_model(request, input);
    const std::span<const float> last(scores.const_data_ptr<float>() + (seen - 1) * classes, classes);
    tokens.push_back(draw(last, uniform01(random.block(0, tokens.size(), 0)[0])));
  }
  const auto text_of = [&](size_t begin, size_t end) {
    const std::vector<uint32_t> ids(tokens.begin() + static_cast<long>(begin),
                                    tokens.begin() + static_cast<long>(end));
    return tokenizer->decode(ids);
  };
  write_file_atomic(
      request.folder + "/samples.txt",
      fmt::format("prompt, {} tokens of the held-back text:\n{}\n\nwritten, {} tokens at temperature "
                  "{}:\n{}\n",
                  prompt, text_of(0, prompt), kWrittenTokens, kTemperature, text_of(prompt, tokens.size())));
  return {"samples.txt"};
}

}  // namespace

std::vector<std::string> draw_pictures(const PictureRequest& request) {
  if (const int32_t generator = plan::generator_of(request.model.spec()); generator >= 0)
    return draw_generated(request, generator);
  const data::Source* const source =
      request.dataset.test ? request.dataset.test.get() : request.dataset.validation.get();
  if (source == nullptr || source->size() == 0) return {};
  const std::vector<data::Field>& fields = source->fields();
  const plan::TensorSpec& output =
      request.model.spec().units[plan::heads_of(request.model.spec()).front().unit].output;
  const bool scores = output.shape.back() == source->classes();
  if (!scores || fields[1].dtype != DType::kI64) return {};
  if (fields[0].dtype == DType::kI64) return draw_text(request, *source);
  const bool a_picture = source->classes() >= 2 && source->classes() <= observe::kMostConfusedClasses;
  return a_picture && fields[1].shape.empty() ? draw_classifier(request, *source)
                                              : std::vector<std::string>();
}

}  // namespace furrow::train
