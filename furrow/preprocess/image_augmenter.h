// Random crops and flips of training images, a pure function of (seed, position): neither ranks nor threads
// nor the order of reading change a pixel.
//
// The position is that of the sample in the global order (data/order.h).  It never comes twice in a run, so
// that it stands for (sample, step) in Philox's counter: every epoch draws anew.
#pragma once

#include <cstdint>
#include <span>

#include "furrow/base/array.h"
#include "furrow/base/rng.h"
#include "furrow/preprocess/image_resize.h"

namespace furrow::preprocess {

struct Augmentation {
  int64_t crop_padding = 0;  // black pixels around the image before a crop of its own size; 0: no crop
  bool flip = false;         // left and right exchanged, every other time
  // A region of the original image at random, scaled to the size of a sample: where originals are read.
  bool resized_crop = false;
  double least_scale = 0.08, most_scale = 1;           // of the original's pixels, in (0, 1]
  double least_ratio = 3.0 / 4, most_ratio = 4.0 / 3;  // of its width to its height, above 0

  bool any() const { return crop_padding > 0 || flip || resized_crop; }
};

// A value; thread safe.
class ImageAugmenter {
 public:
  // REQUIRES: 0 <= crop_padding < 2^15, 0 < least_scale <= most_scale <= 1, 0 < least_ratio <= most_ratio,
  // finite.
  ImageAugmenter(uint64_t seed, Augmentation augmentation);

  struct Draw {
    int64_t down, right;  // where the crop starts in the image, each in [-crop_padding, crop_padding]
    bool flip;
  };
  Draw draw(int64_t position) const;  // REQUIRES: 0 <= position < 2^48

  // torchvision's RandomResizedCrop(scale=(least_scale, most_scale), ratio=(least_ratio, most_ratio)) of an
  // original of these sides: ten tries of an area and of a ratio of the sides, even in its logarithm; else
  // the middle, its ratio clamped.  REQUIRES: as draw(), positive sides.
  Region region(int64_t position, int64_t height, int64_t width) const;
  bool resizes() const { return augmentation_.resized_crop; }

  // Image [c, h, w] to one of the same shape: out(y, x) is in(y + down, x + right), 0 outside, then flipped.
  // REQUIRES: two buffers of h * w * c bytes that do not overlap.
  void apply(int64_t position, const Shape& shape, std::span<const uint8_t> in, std::span<uint8_t> out) const;

 private:
  Region middle(int64_t height, int64_t width) const;

  Philox random_;
  Augmentation augmentation_;
};

}  // namespace furrow::preprocess
