#include "furrow/data/open_images.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/base/text.h"
#include "furrow/data/lazy_source.h"
#include "furrow/data/opening.h"
#include "furrow/data/pixel_sums_file.h"
#include "furrow/data/split.h"
#include "furrow/preprocess/class_names.h"

namespace furrow::data {
namespace {

using preprocess::ImageAugmenter;
using preprocess::ImageNormaliser;

// Tells how far the images are read, by their pixels, and ends the reading when it is cancelled.  Thread
// safe.
class FitProgress {
 public:
  FitProgress(const WhileOpening& opening, uint64_t total) : opening_(opening), total_(total) {}

  void add(uint64_t bytes) {
    check_cancelled(opening_, "the images were read", opening_.spool);
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (opening_.progress) opening_.progress(done_, total_);
  }

 private:
  const WhileOpening& opening_;
  const uint64_t total_;
  std::mutex mutex_;
  uint64_t done_ = 0;
};

// Images that cannot be read, all of them in one error.  Thread safe.
class Unreadable {
 public:
  void add(size_t index, const Error& error) {
    const std::lock_guard lock(mutex_);
    errors_.emplace(index, error);
  }

  // Error: that of the first, and what else there is.
  void check() const {
    if (errors_.empty()) return;
    const Error& first = errors_.begin()->second;
    if (errors_.size() == 1) throw first;
    constexpr size_t kShown = 20;
    std::vector<std::string> others;
    for (auto at = std::next(errors_.begin()); at != errors_.end() && others.size() < kShown; ++at)
      others.emplace_back(at->second.what());
    throw Error(first.code(),
                fmt::format("{}; {} more images cannot be read: {}{}", first.what(), errors_.size() - 1,
                            join(others, "; "), errors_.size() - 1 > kShown ? "; ..." : ""));
  }

 private:
  std::mutex mutex_;
  std::map<size_t, Error> errors_;
};

// Mean and deviation of the images to train on.  Exact: neither the order nor the grouping of the images
// changes anything.
class Fit {
 public:
  Fit(const DatasetOptions& options, const LabelledStore& images, std::span<const uint32_t> train)
      : images_(images),
        train_(train),
        stretches_(std::min(train.size(), kStretches)),
        total_(static_cast<size_t>(images.shape()[0])),
        progress_(options.opening, train.size() * images.image_bytes()) {
    const std::filesystem::path& spool = options.opening.spool;
    if (!spool.empty()) kept_.emplace(spool, identity_of(options), stretches_, total_.size());
  }

  ImageNormaliser run(ReaderPool& pool) {
    pool.run(stretches_, [this](size_t stretch) { sum(stretch); });
    unreadable_.check();
    return ImageNormaliser::fit(total_);
  }

 private:
  // Few enough to cost nothing, enough for every reader; of a million images each takes a second.
  static constexpr size_t kStretches = 4096;

  // But for the files themselves, whose owner (pack_work.h) knows whether they have changed.
  std::string identity_of(const DatasetOptions& options) const {
    return fmt::format("{}\n{}\n{}\n{} {} {}\n{}", options.kind, options.path.string(), images_.label_file(),
                       to_string(images_.shape()), options.image_size, options.resize_size,
                       to_hex(xxh3_128(std::as_bytes(train_))));
  }

  void sum(size_t stretch) {
    const size_t begin = train_.size() * stretch / stretches_,
                 end = train_.size() * (stretch + 1) / stretches_;
    const auto indices = train_.subspan(begin, end - begin);
    if (const ChannelSums* const found = kept_ ? kept_->find(stretch) : nullptr) {
      for (const uint32_t index : indices) images_.note_whole(index);
      progress_.add(indices.size() * images_.image_bytes());
      return add(*found);
    }
    ChannelSums sums(total_.size());
    const bool all = read(indices, sums);
    if (kept_ && all) kept_->add(stretch, sums);
    add(sums);
  }

  // False: not all of them can be read.
  bool read(std::span<const uint32_t> indices, ChannelSums& sums) {
    constexpr size_t kBytesBetween = size_t{1} << 20;
    const size_t plane = images_.image_bytes() / sums.size();
    std::vector<uint8_t> scratch(images_.image_bytes() + sizeof(int32_t));
    size_t untold = 0;
    bool all = true;
    for (const uint32_t index : indices) {
      try {
        const auto pixels = images_.fetch(index, scratch).pixels;
        for (size_t c = 0; c < sums.size(); ++c) sums[c].add(pixels.subspan(c * plane, plane));
      } catch (const Error& error) {
        unreadable_.add(index, error);
        all = false;
      }
      untold += images_.image_bytes();
      if (untold >= kBytesBetween) progress_.add(std::exchange(untold, 0));
    }
    progress_.add(untold);
    return all;
  }

  void add(const ChannelSums& sums) {
    const std::lock_guard lock(mutex_);
    for (size_t c = 0; c < sums.size(); ++c) total_[c].add(sums[c]);
  }

  const LabelledStore& images_;
  const std::span<const uint32_t> train_;
  const size_t stretches_;
  std::mutex mutex_;  // of `total_`
  ChannelSums total_;
  std::optional<PixelSumsFile> kept_;  // where an opening keeps what it has read
  FitProgress progress_;
  Unreadable unreadable_;
};

int64_t stated_classes(const Preprocessing& fitted) {
  const std::string& text = preprocess::state_value(fitted, "classes");
  int64_t classes = 0;
  if (!parse_int(text, classes) || classes < 1) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("fitted preprocessing: 'classes' is '{}', not a count", text));
  }
  return classes;
}

std::vector<std::string> names_of(const ImageParts& parts, int64_t classes) {
  if (!parts.names.empty()) return parts.names;
  std::vector<std::string> numbers;
  for (int64_t i = 0; i < classes; ++i) numbers.push_back(fmt::format("{}", i));
  return numbers;
}

FittedImages fit_or_load(const DatasetOptions& options, const ImageParts& parts,
                         const std::vector<uint32_t>& train, const Preprocessing* preprocessing) {
  const LabelledStore& images = *parts.train;
  const auto pool = parts.pool ? parts.pool : std::make_shared<ReaderPool>(1);
  FittedImages fitted;
  if (preprocessing != nullptr) {
    fitted = load_fitted_images(*preprocessing, images.shape());
    check_class_names(fitted.names, names_of(parts, fitted.classes), images.label_file());
  } else {
    const ImageNormaliser normaliser =
        options.normalize ? Fit(options, images, train).run(*pool) : ImageNormaliser(0, 1);
    fitted.normaliser = std::make_shared<const ImageNormaliser>(normaliser);
    fitted.classes = parts.classes > 0 ? parts.classes : count_classes(images.labels(), images.label_file());
    fitted.names = names_of(parts, fitted.classes);
  }
  check_labels(images.labels(), fitted.classes, images.label_file());
  return fitted;
}

std::unique_ptr<Source> source_of(std::shared_ptr<const ImageStore> images, std::vector<uint32_t> subset,
                                  ImagePipeline pipeline, const ImageParts& parts, int64_t classes) {
  auto source =
      std::make_unique<ImageSource>(std::move(images), std::move(subset), std::move(pipeline), classes);
  if (parts.pool == nullptr || parts.pool->readers() == 1) return source;
  return std::make_unique<ParallelSource>(std::move(source), parts.pool, RowCost::kWork);
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
  return source_of(images, {}, {fitted.normaliser}, parts, fitted.classes);
}

}  // namespace

int64_t validation_count(const DatasetOptions& options, int64_t images) {
  return fraction_count(options.validation_fraction, images, "data.validation_fraction", "images");
}

FittedImages load_fitted_images(const Preprocessing& fitted, const Shape& shape) {
  FittedImages loaded{preprocess::load_as<ImageNormaliser>(fitted), stated_classes(fitted),
                      preprocess::class_names(fitted)};
  const size_t channels = loaded.normaliser->channels();
  if (channels != 1 && channels != static_cast<size_t>(shape[0])) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the model was trained on images of {} channels, these are {}: use the data set "
                            "that it was trained with",
                            channels, to_string(shape)));
  }
  return loaded;
}

void check_class_names(const std::vector<std::string>& fitted, const std::vector<std::string>& own,
                       const std::string& where) {
  if (fitted.empty() || own.empty()) {
    log_info(
        fmt::format("{}: an earlier version of furrow has not written down what the classes are called: "
                    "whether they are those of {} is not checked",
                    where, own.empty() ? "the other data" : "the model or the other data"));
    return;
  }
  const auto difference = preprocess::class_difference(fitted, own);
  if (!difference) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} has other classes than the model or the data before it: {}: name and order "
                          "them alike",
                          where, *difference));
}

std::shared_ptr<const ImageAugmenter> make_augmenter(const DatasetOptions& options) {
  if (!options.augmentation.any()) return nullptr;
  return std::make_shared<const ImageAugmenter>(options.seed, options.augmentation);
}

Dataset assemble_images(const DatasetOptions& options, ImageParts parts, const Preprocessing* preprocessing) {
  const auto images = parts.train;
  const int64_t held_back = parts.validation ? 0 : validation_count(options, images->size());
  Carved carved = carve(images->size(), held_back, options.seed);
  const FittedImages fitted = fit_or_load(options, parts, carved.train, preprocessing);

  Dataset dataset;
  dataset.preprocessing = fitted.normaliser->state();
  dataset.preprocessing["classes"] = fmt::format("{}", fitted.classes);
  if (!fitted.names.empty())
    dataset.preprocessing[preprocess::kClassNames] = preprocess::names_text(fitted.names);
  if (parts.validation || !carved.validation.empty()) {
    dataset.validation = source_of(parts.validation ? parts.validation : images, std::move(carved.validation),
                                   {fitted.normaliser}, parts, fitted.classes);
  }
  dataset.train = source_of(images, std::move(carved.train), {fitted.normaliser, make_augmenter(options)},
                            parts, fitted.classes);
  if (parts.test) {
    parts.train = nullptr;  // the closure needs its shape alone
    dataset.test = std::make_unique<LazySource>(
        image_fields(images->shape()), fitted.classes,
        [parts, shape = images->shape(), fitted] { return open_test(parts, shape, fitted); });
  }
  return dataset;
}

}  // namespace furrow::data
