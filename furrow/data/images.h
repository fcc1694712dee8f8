// Labelled 8-bit images in memory, and sources over parts of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/files.h"
#include "furrow/data/source.h"
#include "furrow/preprocess/image_normaliser.h"

namespace furrow::data {

// Two IDX files as they are in memory, one byte per pixel.  Immutable; thread safe.
class LabelledImages {
 public:
  // Error{data_loss}: damaged, or image and label counts differ.  Error{invalid_argument}: no images, or
  // files that hold something else than 8-bit images [n, h, w] or [n, c, h, w] and 8-bit labels [n].
  static LabelledImages load(const std::filesystem::path& images, const std::filesystem::path& labels);

  int64_t size() const { return size_; }
  const Shape& shape() const { return shape_; }  // [c, h, w]
  std::span<const uint8_t> image(size_t index) const {
    return pixels_.subspan(index * image_bytes_, image_bytes_);
  }
  std::span<const uint8_t> labels() const { return labels_; }
  const std::string& label_file() const { return label_file_; }

 private:
  Bytes image_bytes_owner_, label_bytes_owner_;
  std::string label_file_;
  int64_t size_ = 0;
  Shape shape_;
  size_t image_bytes_ = 0;
  std::span<const uint8_t> pixels_, labels_;
};

// Labels of one file.  `dims` as in LabelledImages::load.
struct Labels {
  Bytes owner;
  std::span<const uint8_t> values;
};
Labels load_labels(const std::filesystem::path& path);

// Shape [c, h, w] of the images of a file from its header alone, and their number.
struct ImageHeader {
  int64_t count = 0;
  Shape shape;
};
ImageHeader read_image_header(const std::filesystem::path& path);

// Classes that the labels of a training file ask for: the largest plus one.  Error{invalid_argument} names
// the file and the sample when most labels below the largest never occur: then it is out of range rather than
// a class.
int64_t count_classes(std::span<const uint8_t> labels, const std::string& file);

// Error{invalid_argument} names the file and the first sample whose label is not below `classes`.
void check_labels(std::span<const uint8_t> labels, int64_t classes, const std::string& file);

// "input" f32 [c, h, w] through the normaliser, "target" i64 [].
std::vector<Field> image_fields(const Shape& shape);

class ImageSource : public Source {
 public:
  // `subset` maps samples to images; empty: all of them in order.
  ImageSource(std::shared_ptr<const LabelledImages> images, std::vector<uint32_t> subset,
              std::shared_ptr<const preprocess::ImageNormaliser> normaliser, int64_t classes);

  int64_t size() const override {
    return subset_.empty() ? images_->size() : static_cast<int64_t>(subset_.size());
  }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return classes_; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;

 private:
  size_t image_of(int64_t index) const;

  std::shared_ptr<const LabelledImages> images_;
  std::vector<uint32_t> subset_;
  std::shared_ptr<const preprocess::ImageNormaliser> normaliser_;
  int64_t classes_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
