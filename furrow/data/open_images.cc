#include "furrow/data/open_images.h"

#include <fmt/format.h>

#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/lazy_source.h"
#include "furrow/data/split.h"

namespace furrow::data {
namespace {

using preprocess::ImageAugmenter;
using preprocess::ImageNormaliser;

// Exact: the order in which the images are added changes nothing.
ImageNormaliser fit(const LabelledImages& images, const std::vector<uint32_t>& train) {
  const auto channels = static_cast<size_t>(images.shape()[0]);
  const size_t plane = images.image_bytes() / channels;
  std::vector<preprocess::PixelSums> sums(channels);
  for (const uint32_t image : train) {
    for (size_t c = 0; c < channels; ++c) sums[c].add(images.image(image).subspan(c * plane, plane));
  }
  return ImageNormaliser::fit(sums);
}

int64_t stated_classes(const Preprocessing& fitted) {
  const std::string& text = preprocess::state_value(fitted, "classes");
  int64_t classes = 0;
  if (!parse_int(text, classes) || classes < 1) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("fitted preprocessing: 'classes' is '{}', not a count", text));
  }
  return classes;
}

FittedImages fit_or_load(const DatasetOptions& options, const ImageParts& parts,
                         const std::vector<uint32_t>& train, const Preprocessing* preprocessing) {
  const LabelledImages& images = *parts.train;
  FittedImages fitted;
  if (preprocessing != nullptr) {
    fitted = load_fitted_images(*preprocessing, images.shape());
  } else {
    const ImageNormaliser normaliser = options.normalize ? fit(images, train) : ImageNormaliser(0, 1);
    fitted.normaliser = std::make_shared<const ImageNormaliser>(normaliser);
    fitted.classes = parts.classes > 0 ? parts.classes : count_classes(images.labels(), images.label_file());
  }
  check_labels(images.labels(), fitted.classes, images.label_file());
  return fitted;
}

std::unique_ptr<Source> open_test(const ImageParts& parts, const Shape& shape, const FittedImages& fitted) {
  const auto images = parts.test();
  if (images->shape() != shape) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{} has images of {}, but those for training are {}: the files do not belong together",
                    parts.test_name, to_string(images->shape()), to_string(shape)));
  }
  check_labels(images->labels(), fitted.classes, images->label_file());
  return std::make_unique<ImageSource>(images, std::vector<uint32_t>(), ImagePipeline{fitted.normaliser},
                                       fitted.classes);
}

}  // namespace

int64_t validation_count(const DatasetOptions& options, int64_t images) {
  return fraction_count(options.validation_fraction, images, "data.validation_fraction", "images");
}

FittedImages load_fitted_images(const Preprocessing& fitted, const Shape& shape) {
  FittedImages loaded{preprocess::load_as<ImageNormaliser>(fitted), stated_classes(fitted)};
  const size_t channels = loaded.normaliser->channels();
  if (channels != 1 && channels != static_cast<size_t>(shape[0])) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the model was trained on images of {} channels, these are {}: use the data set "
                            "that it was trained with",
                            channels, to_string(shape)));
  }
  return loaded;
}

std::shared_ptr<const ImageAugmenter> make_augmenter(const DatasetOptions& options) {
  if (!options.augmentation.any()) return nullptr;
  return std::make_shared<const ImageAugmenter>(options.seed, options.augmentation);
}

Dataset assemble_images(const DatasetOptions& options, ImageParts parts, const Preprocessing* preprocessing) {
  const auto images = parts.train;
  Carved carved = carve(images->size(), validation_count(options, images->size()), options.seed);
  const FittedImages fitted = fit_or_load(options, parts, carved.train, preprocessing);

  Dataset dataset;
  dataset.preprocessing = fitted.normaliser->state();
  dataset.preprocessing["classes"] = fmt::format("{}", fitted.classes);
  if (!carved.validation.empty()) {
    dataset.validation = std::make_unique<ImageSource>(images, std::move(carved.validation),
                                                       ImagePipeline{fitted.normaliser}, fitted.classes);
  }
  dataset.train = std::make_unique<ImageSource>(images, std::move(carved.train),
                                                ImagePipeline{fitted.normaliser, make_augmenter(options)},
                                                fitted.classes);
  if (parts.test) {
    parts.train = nullptr;  // the closure needs its shape alone
    dataset.test = std::make_unique<LazySource>(
        image_fields(images->shape()), fitted.classes,
        [parts, shape = images->shape(), fitted] { return open_test(parts, shape, fitted); });
  }
  return dataset;
}

}  // namespace furrow::data
