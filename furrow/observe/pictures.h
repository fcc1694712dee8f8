// What a trained model says, as pictures: SVG written by hand, equal input gives equal bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::observe {

// The pictures that a run folder may hold, by file name, in the order in which they are listed.
inline constexpr std::string_view kPictureFiles[] = {"loss.svg", "confusion.svg", "samples.svg",
                                                     "samples.txt", "timeline.svg"};

// The names of those that are there.
std::vector<std::string> list_pictures(const std::string& run_folder);

// How often each class was taken for each.
struct ConfusionMatrix {
  explicit ConfusionMatrix(int64_t classes)
      : classes(classes), counts(static_cast<size_t>(classes * classes), 0) {}
  void add(int64_t target, int64_t predicted) { ++counts[static_cast<size_t>(target * classes + predicted)]; }
  int64_t at(int64_t target, int64_t predicted) const {
    return counts[static_cast<size_t>(target * classes + predicted)];
  }
  std::string name(int64_t of) const;  // of a class

  int64_t classes;
  std::vector<int64_t> counts;          // [target][predicted]
  std::vector<std::string> names = {};  // of classes; empty: their numbers
};
inline constexpr int64_t kMostConfusedClasses = 64;  // more are no picture

// A row per target, shaded by its share of the row; counts stand in the cells while there is room.
std::string confusion_svg(const ConfusionMatrix& matrix, const std::string& title);

// An 8-bit image of 1 (grey) or 3 (RGB) channels, pixel after pixel.
struct GridImage {
  int64_t height = 0, width = 0, channels = 1;
  std::vector<uint8_t> pixels;  // [height, width, channels]
  std::string caption;
  bool marked = false;  // its caption in another colour: a wrong answer
};

// Images of one size in rows of `columns`, each a PNG inside the SVG, with their captions.
// REQUIRES: pixels of the stated size, columns > 0.
std::string image_grid_svg(const std::vector<GridImage>& images, int64_t columns, const std::string& title);

// The bytes of a PNG file.  REQUIRES: as above.
std::string to_png(const GridImage& image);

}  // namespace furrow::observe
