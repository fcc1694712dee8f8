// Labelled 8-bit images in memory, and sources over parts of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "furrow/data/files.h"
#include "furrow/data/image_files.h"
#include "furrow/data/source.h"
#include "furrow/preprocess/image_augmenter.h"
#include "furrow/preprocess/image_normaliser.h"

namespace furrow::data {

// Labelled images, one byte per pixel, all of one shape.  Immutable; thread safe.
class ImageStore {
 public:
  virtual ~ImageStore() = default;
  virtual int64_t size() const = 0;
  virtual const Shape& shape() const = 0;  // [c, h, w]

  struct Image {
    std::span<const uint8_t> pixels;
    int64_t label;
  };
  // In place where the store holds it, else read into `scratch`, of image_bytes() and a label (i32).
  virtual Image fetch(size_t index, std::span<uint8_t> scratch) const = 0;
  // As training takes it at a position: a store of originals cuts out of them what the augmenter says.
  virtual Image fetch_at(size_t index, int64_t /*position*/, const preprocess::ImageAugmenter& /*augmenter*/,
                         std::span<uint8_t> scratch) const {
    return fetch(index, scratch);
  }
  virtual int64_t label(size_t index) const {
    std::vector<uint8_t> scratch(image_bytes() + sizeof(int32_t));
    return fetch(index, scratch).label;
  }
  // An earlier process has fetched it: it is a whole image.
  virtual void note_whole(size_t /*index*/) const {}
  // The files that it decodes, where a pack is to keep those instead of pixels; else null.
  virtual const ImageFiles* files() const { return nullptr; }
  // A hint that fetch(index) comes soon.
  virtual void prefetch(size_t /*index*/) const {}

  size_t image_bytes() const { return static_cast<size_t>(num_elements(shape())); }
};

// One whose labels are known without reading images.
class LabelledStore : public ImageStore {
 public:
  virtual std::span<const int32_t> labels() const = 0;
  int64_t label(size_t index) const override { return labels()[index]; }
  virtual const std::string& label_file() const = 0;  // for messages
};

// Images in memory, `stride` bytes apart.
class LabelledImages : public LabelledStore {
 public:
  // `pixels` lies in `owner`: the first byte of the first image; the last image ends in it too.
  struct Parts {
    Bytes owner = {};
    const uint8_t* pixels = nullptr;
    size_t stride = 0;
    Shape shape = {};  // [c, h, w]
    std::vector<int32_t> labels = {};
    std::string label_file = {};  // for messages
  };
  explicit LabelledImages(Parts parts) : parts_(std::move(parts)) {}

  // Two IDX files.  Error{data_loss}: damaged, or image and label counts differ.  Error{invalid_argument}: no
  // images, or files that hold something else than 8-bit images [n, h, w] or [n, c, h, w] and 8-bit labels
  // [n].
  static LabelledImages load(const std::filesystem::path& images, const std::filesystem::path& labels);

  int64_t size() const override { return static_cast<int64_t>(parts_.labels.size()); }
  const Shape& shape() const override { return parts_.shape; }
  Image fetch(size_t index, std::span<uint8_t>) const override { return {image(index), labels()[index]}; }
  void prefetch(size_t index) const override;

  std::span<const uint8_t> image(size_t index) const {
    return {parts_.pixels + index * parts_.stride, image_bytes()};
  }
  std::span<const int32_t> labels() const override { return parts_.labels; }
  const std::string& label_file() const override { return parts_.label_file; }

 private:
  Parts parts_;
};

// Labels of one IDX file.  `dims` as in LabelledImages::load.
std::vector<int32_t> load_labels(const std::filesystem::path& path);

// Shape [c, h, w] of the images of a file from its header alone, and their number.
struct ImageHeader {
  int64_t count = 0;
  Shape shape;
};
ImageHeader read_image_header(const std::filesystem::path& path);

// Classes that the labels of a training file ask for: the largest plus one.  Error{invalid_argument} names
// the file and the sample when most labels below the largest never occur: then it is out of range rather than
// a class.
int64_t count_classes(std::span<const int32_t> labels, const std::string& file);

// Error{invalid_argument} names the file and the first sample whose label is not below `classes`.
void check_labels(std::span<const int32_t> labels, int64_t classes, const std::string& file);

// "input" f32 [c, h, w] through the normaliser, "target" i64 [].
std::vector<Field> image_fields(const Shape& shape);
// "pixels" u8 [c, h, w], "label" i32 [].
std::vector<Field> image_record_fields(const Shape& shape);

// How pixels become the input.
struct ImagePipeline {
  std::shared_ptr<const preprocess::ImageNormaliser> normaliser;
  // Applied by read_at() alone, so that the position is known; null: never.
  std::shared_ptr<const preprocess::ImageAugmenter> augmenter = nullptr;
};

class ImageSource : public Source {
 public:
  // `subset` maps samples to images; empty: all of them in order.  REQUIRES: one channel in the normaliser,
  // or as many as the images have.
  ImageSource(std::shared_ptr<const ImageStore> images, std::vector<uint32_t> subset, ImagePipeline pipeline,
              int64_t classes);

  int64_t size() const override {
    return subset_.empty() ? images_->size() : static_cast<int64_t>(subset_.size());
  }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return classes_; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override {
    read_at(indices, {}, fields);
  }
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override;
  void read_targets(std::span<const int64_t> indices, const ArrayView& targets) const override;
  std::unique_ptr<Records> records() const override;  // pixels as they are, or files; labels

 private:
  class PixelRecords;
  size_t image_of(int64_t index) const;

  std::shared_ptr<const ImageStore> images_;
  std::vector<uint32_t> subset_;
  ImagePipeline pipeline_;
  int64_t classes_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
