#include "furrow/observe/pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>

#include "furrow/base/file.h"
#include "furrow/base/rng.h"
#include "furrow/plan/topology.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/preprocess/tokenizer.h"
#include "furrow/train/pictures_torch.h"
#include "furrow/train/predictor_torch.h"

namespace furrow::train {
namespace {

constexpr int64_t kGridColumns = 8, kGridImages = 32;
constexpr int64_t kPromptTokens = 16, kWrittenTokens = 256;
constexpr double kTemperature = 0.8;

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

std::span<const float> numbers_of(const at::Tensor& output) {
  return {output.const_data_ptr<float>(), static_cast<size_t>(output.numel())};
}

// The classes of a classifier, two where its answer is one number, above 0 for the second.
int64_t classes_of(const PictureRequest& request, const data::Source& source) {
  const bool number = source.fields()[1].dtype == DType::kF32 && source.fields()[1].shape == Shape{1};
  const auto stated = request.dataset.preprocessing.find("classes");
  if (!number || stated == request.dataset.preprocessing.end()) return source.classes();
  return stated->second == "2" ? 2 : source.classes();
}

// The class of a sample, by its target in the batch.
int64_t target_of(const ArrayView& targets, size_t row) {
  return targets.dtype == DType::kI64 ? targets.as<int64_t>()[row]
                                      : static_cast<int64_t>(targets.as<float>()[row]);
}

int64_t predicted_of(std::span<const float> scores) {
  if (scores.size() == 1) return scores[0] > 0 ? 1 : 0;
  return std::ranges::max_element(scores) - scores.begin();
}

std::vector<std::string> draw_classifier(const PictureRequest& request, const data::Source& source) {
  const Shape& shape = source.fields()[0].shape;
  const bool images =
      shape.size() == 3 && (shape[0] == 1 || shape[0] == 3) && request.dataset.preprocessing.contains("mean");
  observe::ConfusionMatrix confusion(classes_of(request, source));
  confusion.names = preprocess::class_names(request.dataset.preprocessing);
  std::vector<observe::GridImage> grid;
  const auto take = [&](const data::Batch& batch, const at::Tensor& output) {
    const std::span<const float> scores = numbers_of(output);
    const auto input = images ? batch.arrays[0].as<float>() : std::span<float>();
    const auto rows = static_cast<size_t>(batch.arrays[1].shape[0]);
    const size_t width = scores.size() / rows;
    for (size_t row = 0; row < rows; ++row) {
      const int64_t predicted = predicted_of(scores.subspan(row * width, width)),
                    target = target_of(batch.arrays[1], row);
      confusion.add(target, predicted);
      if (!images || static_cast<int64_t>(grid.size()) == kGridImages) continue;
      const size_t pixels = input.size() / rows;
      grid.push_back(image_of(input.subspan(row * pixels, pixels), shape, request.dataset.preprocessing));
      grid.back().marked = predicted != target;
      grid.back().caption = grid.back().marked
                                ? fmt::format("{}, not {}", confusion.name(predicted), confusion.name(target))
                                : confusion.name(predicted);
    }
  };
  Predictor(request.model, request.rank).run(source, request.batch_size, take);
  std::vector<std::string> names{"confusion.svg"};
  write_file_atomic(request.folder + "/confusion.svg", observe::confusion_svg(confusion, "Answers by class"));
  if (grid.empty()) return names;
  names.emplace_back("samples.svg");
  write_file_atomic(request.folder + "/samples.svg",
                    observe::image_grid_svg(grid, kGridColumns, "Samples and answers"));
  return names;
}

// Sample ids, with nothing to read: a generator has their number from the batch.
class Blanks : public data::Source {
 public:
  Blanks(int64_t size, const data::Source& like) : size_(size), fields_(like.fields()) {}
  int64_t size() const override { return size_; }
  const std::vector<data::Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 0; }
  void read(std::span<const int64_t>, std::span<const ArrayView> arrays) const override {
    for (const ArrayView& array : arrays) std::ranges::fill(array.bytes, std::byte{0});
  }

 private:
  int64_t size_;
  std::vector<data::Field> fields_;
};

// What the generator makes of the noise of the first sample ids.
std::vector<std::string> draw_generated(const PictureRequest& request) {
  const data::Source& samples = *request.dataset.train;
  const Shape& shape = samples.fields()[0].shape;
  if (shape.size() != 3 || (shape[0] != 1 && shape[0] != 3) ||
      !request.dataset.preprocessing.contains("mean"))
    return {};
  std::vector<observe::GridImage> grid;
  const auto pixels = static_cast<size_t>(num_elements(shape));
  const auto take = [&](const data::Batch&, const at::Tensor& output) {
    const std::span<const float> made = numbers_of(output);
    for (size_t at = 0; at < made.size(); at += pixels)
      grid.push_back(image_of(made.subspan(at, pixels), shape, request.dataset.preprocessing));
  };
  const int64_t count = 2 * kGridImages;
  Predictor(request.model, request.rank).run(Blanks(count, samples), count, take);
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

// One row of token ids, as long as there are some, up to a whole context.
class Row : public data::Source {
 public:
  explicit Row(std::span<const int64_t> tokens)
      : fields_{{"input", DType::kI64, {static_cast<int64_t>(tokens.size())}}}, tokens_(tokens) {}
  int64_t size() const override { return 1; }
  const std::vector<data::Field>& fields() const override { return fields_; }
  int64_t classes() const override { return 0; }
  void read(std::span<const int64_t>, std::span<const ArrayView> arrays) const override {
    std::ranges::copy(tokens_, arrays[0].as<int64_t>().begin());
  }

 private:
  std::vector<data::Field> fields_;
  std::span<const int64_t> tokens_;
};

// The first tokens of the split, of its first document where it has some.
std::vector<int64_t> prompt_of(const data::Source& source) {
  const Shape row{1, source.fields()[0].shape[0]};
  std::vector<Array> arrays;
  std::vector<ArrayView> views;
  for (size_t f = 0; f < source.fields().size(); ++f) arrays.emplace_back(DType::kI64, row);
  for (Array& array : arrays) views.push_back(array.view());
  source.read(std::vector<int64_t>{0}, views);
  const auto tokens = views[0].as<int64_t>();
  const auto positions = views.size() > 2 ? views[2].as<int64_t>() : std::span<int64_t>();
  std::vector<int64_t> prompt;
  for (size_t t = 0; t < std::min<size_t>(tokens.size(), kPromptTokens); ++t) {
    if (!positions.empty() && positions[t] != static_cast<int64_t>(t)) break;
    prompt.push_back(tokens[t]);
  }
  return prompt;
}

// FLOPs of a forward, by token of its row.
double flops_of_token(const plan::ModelSpec& spec, int64_t context) {
  double flops = 0;
  for (const plan::Unit& unit : spec.units) flops += unit.flops.forward;
  return flops / static_cast<double>(context);
}

// What the model writes behind `tokens`, up to `end`, where it is one.  Models of text are causal, so a row
// ends where the text does; of scores for more tokens than the text has (a vocabulary rounded up) the first
// count.
void write_on(const PictureRequest& request, const data::Source& source, std::optional<uint32_t> end,
              std::vector<int64_t>* tokens) {
  const auto context = static_cast<size_t>(source.fields()[0].shape[0]),
             classes = static_cast<size_t>(source.classes());
  const double each = flops_of_token(request.model.spec(), source.fields()[0].shape[0]);
  const Philox random(request.rank.seed, RandomPurpose::kSample, "samples.txt");
  const auto take = [&](const data::Batch&, const at::Tensor& output) {
    const std::span<const float> scores = numbers_of(output);
    const auto width = static_cast<size_t>(output.size(-1));
    const auto last = scores.subspan(scores.size() - width, classes);
    tokens->push_back(draw(last, uniform01(random.block(0, tokens->size(), 0)[0])));
  };
  Predictor predictor(request.model, request.rank);
  double flops = 0;
  for (int64_t written = 0; written < kWrittenTokens && flops <= request.most_text_flops; ++written) {
    const size_t seen = std::min(tokens->size(), context);
    flops += each * static_cast<double>(seen);
    const std::vector<int64_t> row(tokens->end() - static_cast<std::ptrdiff_t>(seen), tokens->end());
    predictor.run(Row(row), 1, take);
    if (end && tokens->back() == static_cast<int64_t>(*end)) return;
  }
}

std::vector<std::string> draw_text(const PictureRequest& request, const data::Source& source) {
  const auto tokenizer = preprocess::load_as<preprocess::Tokenizer>(request.dataset.preprocessing);
  std::vector<int64_t> tokens = prompt_of(source);
  const size_t prompt = tokens.size();
  write_on(request, source, request.documents_end ? tokenizer->end_token() : std::nullopt, &tokens);
  const auto text_of = [&](size_t begin, size_t end) {
    const std::vector<uint32_t> ids(tokens.begin() + static_cast<long>(begin),
                                    tokens.begin() + static_cast<long>(end));
    return tokenizer->decode(ids);
  };
  write_file_atomic(
      request.folder + "/samples.txt",
      fmt::format("prompt, {} tokens of the held-back text:\n{}\n\nwritten, {} tokens at temperature "
                  "{}:\n{}\n",
                  prompt, text_of(0, prompt), tokens.size() - prompt, kTemperature,
                  text_of(prompt, tokens.size())));
  return {"samples.txt"};
}

}  // namespace

std::vector<std::string> draw_pictures(const PictureRequest& request) {
  if (plan::generator_of(request.model.spec()) >= 0) return draw_generated(request);
  const data::Source* const source =
      request.dataset.test ? request.dataset.test.get() : request.dataset.validation.get();
  if (source == nullptr || source->size() == 0) return {};
  const std::vector<data::Field>& fields = source->fields();
  const plan::TensorSpec& output =
      request.model.spec().units[plan::heads_of(request.model.spec()).front().unit].output;
  const bool text = fields[0].dtype == DType::kI64 && fields[1].dtype == DType::kI64;
  if (text && output.shape.back() >= source->classes()) return draw_text(request, *source);
  if (output.shape.back() != source->classes()) return {};
  const int64_t classes = classes_of(request, *source);
  const bool labels = fields[1].dtype == DType::kI64 ? fields[1].shape.empty() : classes == 2;
  const bool a_picture = classes >= 2 && classes <= observe::kMostConfusedClasses;
  return a_picture && labels ? draw_classifier(request, *source) : std::vector<std::string>();
}

}  // namespace furrow::train
