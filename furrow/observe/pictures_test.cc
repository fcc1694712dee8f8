#include "furrow/observe/pictures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <png.h>
#include <stdlib.h>

#include "furrow/base/error.h"
#include "furrow/base/file.h"

namespace furrow::observe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

GridImage image_of(int64_t height, int64_t width, int64_t channels) {
  GridImage image{height, width, channels, {}, "3 <as> 5", true};
  for (int64_t i = 0; i < height * width * channels; ++i)
    image.pixels.push_back(static_cast<uint8_t>(i * 37 % 251));
  return image;
}

TEST(Pictures, APngReadsBackToItsPixels) {
  for (const int64_t channels : {1, 3}) {
    const GridImage image = image_of(7, 5, channels);
    const std::string file = to_png(image);
    png_image header{};
    header.version = PNG_IMAGE_VERSION;
    ASSERT_NE(png_image_begin_read_from_memory(&header, file.data(), file.size()), 0);
    header.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    EXPECT_EQ(header.width, 5u);
    EXPECT_EQ(header.height, 7u);
    std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(header));
    ASSERT_NE(png_image_finish_read(&header, nullptr, pixels.data(), 0, nullptr), 0);
    EXPECT_EQ(pixels, image.pixels);
  }
  GridImage wrong = image_of(7, 5, 3);
  wrong.pixels.pop_back();
  EXPECT_THROW(to_png(wrong), Error);
}

TEST(Pictures, AGridHoldsItsImagesAndCaptions) {
  const std::string svg =
      image_grid_svg({image_of(7, 5, 1), image_of(7, 5, 1), image_of(7, 5, 1)}, 2, "a & b");
  EXPECT_THAT(svg, HasSubstr("a &amp; b"));
  EXPECT_THAT(svg, HasSubstr("3 &lt;as&gt; 5"));
  EXPECT_THAT(svg, HasSubstr("href=\"data:image/png;base64,iVBORw0KGgo"));  // the PNG signature
  size_t images = 0;
  for (size_t at = svg.find("<image"); at != std::string::npos; at = svg.find("<image", at + 1)) ++images;
  EXPECT_EQ(images, 3u);
  EXPECT_EQ(svg, image_grid_svg({image_of(7, 5, 1), image_of(7, 5, 1), image_of(7, 5, 1)}, 2, "a & b"));
}

TEST(Pictures, AConfusionMatrixShadesByRow) {
  ConfusionMatrix matrix(3);
  for (int i = 0; i < 40; ++i) matrix.add(0, 0);
  for (int i = 0; i < 30; ++i) matrix.add(1, i < 15 ? 1 : 2);
  EXPECT_EQ(matrix.at(1, 2), 15);
  EXPECT_EQ(matrix.at(2, 1), 0);
  const std::string svg = confusion_svg(matrix, "test");
  EXPECT_THAT(svg, HasSubstr("fill=\"#0072b2\""));  // all of class 0
  EXPECT_THAT(svg, HasSubstr("fill=\"#80b9d9\""));  // half of class 1
  EXPECT_THAT(svg, HasSubstr(">40</text>"));
  EXPECT_THAT(svg, Not(HasSubstr("fill=\"#fff\">0</text>")));
}

TEST(Pictures, AreListedInTheirOrder) {
  char name_of[] = "/tmp/furrow_pictures_XXXXXX";
  const std::string folder = ::mkdtemp(name_of);
  EXPECT_TRUE(list_pictures(folder).empty());
  for (const char* name : {"timeline.svg", "samples.txt", "loss.svg", "other.svg"})
    write_file_atomic(folder + "/" + name, "x");
  EXPECT_THAT(list_pictures(folder), ElementsAre("loss.svg", "samples.txt", "timeline.svg"));
  remove_all(folder);
}

}  // namespace
}  // namespace furrow::observe
