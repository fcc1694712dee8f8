#include "furrow/models/image_borders.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace furrow::models {
namespace {

// What the blocks of nn/ read, and give where that is an image; of kinds that are not here, as it comes.
struct Row {
  std::string_view kind;
  ImageForm form;
};
constexpr std::array kRows = {
    Row{"conv", ImageForm::kPixels},           Row{"conv_norm", ImageForm::kPixels},
    Row{"residual_block", ImageForm::kPixels}, Row{"bottleneck_block", ImageForm::kPixels},
    Row{"pool_linear", ImageForm::kPixels},    Row{"max_pool", ImageForm::kPixels},
    Row{"avg_pool", ImageForm::kPixels},       Row{"global_avg_pool", ImageForm::kPixels},
    Row{"batch_norm", ImageForm::kPixels},     Row{"conv_relu_pool", ImageForm::kPlanes},
    Row{"linear", ImageForm::kPlanes},         Row{"layer_norm", ImageForm::kPlanes},
    Row{"dropout", ImageForm::kPlanes}};

std::optional<ImageForm> form_of(const plan::Unit& unit) {
  const auto row = std::ranges::find(kRows, unit.kind, &Row::kind);
  return row == kRows.end() ? std::nullopt : std::optional(row->form);
}

bool has_forms(const plan::TensorSpec& image) {
  return image.shape.size() == 4 && image.shape[1] > 1 && image.shape[2] * image.shape[3] > 1;
}

const plan::Unit& at(const plan::ModelSpec& spec, int32_t unit) {
  return spec.units[static_cast<size_t>(unit)];
}

// A batch has planes.
ImageForm given_by(const plan::ModelSpec& spec, const plan::ModelFacts& facts, int32_t unit) {
  while (unit >= 0) {
    if (const std::optional<ImageForm> form = form_of(at(spec, unit))) return *form;
    unit = facts.units[static_cast<size_t>(unit)].source;
  }
  return ImageForm::kPlanes;
}

}  // namespace

ImageBorders image_borders(const plan::ModelSpec& spec, const plan::ModelFacts& facts, size_t unit) {
  ImageBorders borders;
  const plan::Unit& own = spec.units[unit];
  const auto index = static_cast<int32_t>(unit);
  if (has_forms(own.input)) {
    borders.comes = given_by(spec, facts, facts.units[unit].source);
    borders.reads = form_of(own).value_or(borders.comes);
  }
  if (!has_forms(own.output)) return borders;
  borders.gives = borders.gradient_comes = given_by(spec, facts, index);
  for (size_t reader = 0; reader < spec.units.size(); ++reader) {
    if (facts.units[reader].source == index && facts.units[reader].passes)
      borders.gradient_comes = form_of(spec.units[reader]).value_or(borders.gives);
  }
  return borders;
}

}  // namespace furrow::models
