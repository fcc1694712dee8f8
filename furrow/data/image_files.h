// Image files as training and evaluation see them: what a folder of images and a pack of their files share.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/data/records.h"
#include "furrow/preprocess/image_augmenter.h"
#include "furrow/preprocess/image_resize.h"

namespace furrow::data {

// What becomes of a file: a picture of `crop` pixels a side.
struct PictureSizes {
  int64_t resize = 32;  // what the shorter side is scaled to first
  int64_t crop = 32;
  bool earlier = false;  // as models of earlier versions saw images
  friend bool operator==(const PictureSizes&, const PictureSizes&) = default;
};

// As the options say, where they say nothing `otherwise`.  Models whose `fitted` values, where there are
// such, lack what note_reading() adds were trained on images decoded whole, their longer side rounded.
// Error{invalid_argument}: a crop larger than what is left of an image.
PictureSizes picture_sizes(const DatasetOptions& options, const Preprocessing* fitted,
                           PictureSizes otherwise = {});
void note_reading(const PictureSizes& sizes, Preprocessing* fitted);

// Decodes, scales and cuts.  Of a JPEG no more is decoded than the picture needs.  A value; thread safe.
class PictureCutter {
 public:
  explicit PictureCutter(PictureSizes sizes) : sizes_(sizes) {}
  const PictureSizes& sizes() const { return sizes_; }
  Shape shape() const { return {3, sizes_.crop, sizes_.crop}; }

  // To planes, as evaluation sees the file.  Errors as decode_image().  REQUIRES: pixels of shape().
  void cut(std::span<const uint8_t> file, std::span<uint8_t> pixels) const;
  // As training does at a position: a region at random where the augmenter has such.
  void cut_at(std::span<const uint8_t> file, int64_t position, const preprocess::ImageAugmenter& augmenter,
              std::span<uint8_t> pixels) const;

 private:
  template <class ScalingOf>
  void read(std::span<const uint8_t> file, std::span<uint8_t> pixels, const ScalingOf& scaling_of) const;
  PictureSizes sizes_;
};

inline constexpr uint64_t kMostImageFileBytes = uint64_t{1} << 30;

// The files behind a store of images, which a pack keeps as they are.  Thread safe.
class ImageFiles {
 public:
  virtual ~ImageFiles() = default;
  virtual uint64_t file_bytes(size_t index) const = 0;
  virtual int32_t file_label(size_t index) const = 0;
  struct Part {
    size_t index;
    uint64_t file_bytes;  // as they were
    uint64_t offset;
  };
  // The bytes from `offset` on; whoever reads those at 0 learns whether the file is a whole image.
  // Error{data_loss}: it is none; {failed_precondition}: it has another size by now.
  virtual void copy(const Part& part, std::span<std::byte> out) const = 0;
  // Those that the fitted values of the set are of.
  virtual PictureSizes fitted_sizes() const = 0;
};

// Records of the layout kEncodedRecords: the bytes of the files of `images`, all of `count` where it is
// empty. REQUIRES: `files` outlives it.
std::unique_ptr<Records> encoded_records(const ImageFiles& files, std::span<const uint32_t> images,
                                         int64_t count);
// The fields of its records: "byte" u8 [].
std::vector<Field> encoded_record_fields();
// What its lineage says of fitted_sizes().  Error{data_loss}: it does not.
PictureSizes sizes_in(const std::map<std::string, std::string>& lineage);

}  // namespace furrow::data
