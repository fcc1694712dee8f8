#include "furrow/data/image_file.h"

#include <fmt/format.h>
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#include <setjmp.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/data/png_chunks.h"

namespace furrow::data {
namespace {

using preprocess::RgbImage;

constexpr uint64_t kMostPixels = uint64_t{1} << 26;

[[noreturn]] void damaged(const std::string& why) {
  throw Error(ErrorCode::kDataLoss, fmt::format("the image is damaged: {}", why));
}

bool too_many(uint64_t height, uint64_t width) {
  return height > kMostPixels || width > kMostPixels || height * width > kMostPixels;
}

[[noreturn]] void refuse_size(uint64_t height, uint64_t width) {
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("the image has {} x {} pixels, and 2^26 are the most that is decoded: scale it down, "
                  "or take it out of the folder",
                  width, height));
}

// Memory for an image of these sides.
RgbImage image_of(uint64_t height, uint64_t width) {
  if (height == 0 || width == 0) damaged("it has no pixels");
  if (too_many(height, width)) refuse_size(height, width);
  return {static_cast<int64_t>(height), static_cast<int64_t>(width),
          std::vector<uint8_t>(height * width * 3)};
}

// Without the fourth channel.
void drop_alpha(std::span<const uint8_t> four, uint8_t* rgb) {
  for (size_t i = 0; i < four.size() / 4; ++i) std::memcpy(rgb + i * 3, four.data() + i * 4, 3);
}

RgbImage decode_png(std::span<const uint8_t> whole_file) {
  const std::vector<uint8_t> file = without_metadata(whole_file);
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  struct Free {
    png_image* png;
    ~Free() { png_image_free(png); }
  } free{&png};
  if (png_image_begin_read_from_memory(&png, file.data(), file.size()) == 0) damaged(png.message);
  const bool transparent = (png.format & PNG_FORMAT_FLAG_ALPHA) != 0;
  png.format = transparent ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  png.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // else 16 bits are taken for linear light, and brightened
  RgbImage image = image_of(png.height, png.width);
  std::vector<uint8_t> four(transparent ? size_t{png.height} * png.width * 4 : 0);
  uint8_t* const to = transparent ? four.data() : image.pixels.data();
  if (png_image_finish_read(&png, nullptr, to, 0, nullptr) == 0) damaged(png.message);
  // libpng mends what it can and says so; a damaged image is to be known.
  if (PNG_IMAGE_FAILED(png) || png.warning_or_error != 0) damaged(png.message);
  drop_alpha(four, image.pixels.data());
  return image;
}

struct JpegErrors {
  jpeg_error_mgr manager;
  jmp_buf back;
  char message[JMSG_LENGTH_MAX];
  bool one_scan = false;    // so that its last bits are those of the last pixels
  bool all_pixels = false;  // are there, whatever follows them
};

[[noreturn]] void leave(j_common_ptr jpeg) {
  auto* const errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->message);
  longjmp(errors->back, 1);
}

// A warning is data that had to be guessed; tracing (level >= 0) is not.  Of one scan the end of the file is
// no guess, another warning follows where pixels lack bits.
void warn(j_common_ptr jpeg, int level) {
  const auto* const errors = reinterpret_cast<const JpegErrors*>(jpeg->err);
  const bool at_end = errors->one_scan && errors->manager.msg_code == JWRN_JPEG_EOF;
  if (level < 0 && !errors->all_pixels && !at_end) leave(jpeg);
}

// Cyan, magenta, yellow and black, each taking its share of the light; Adobe's programs store the light that
// each lets through.
void to_rgb(std::span<const uint8_t> inks, bool adobe, uint8_t* rgb) {
  const uint8_t turned = adobe ? 0 : 0xff;
  for (size_t i = 0; i + 3 < inks.size(); i += 4) {
    const unsigned black = inks[i + 3] ^ turned;
    for (size_t c = 0; c < 3; ++c)
      *rgb++ = static_cast<uint8_t>(((inks[i + c] ^ turned) * black + 127) / 255);
  }
}

// What a file is decoded to, besides its pixels.
struct JpegSize {
  const ChooseWanted& choose;
  Wanted wanted = {};
  bool too_large = false;
};

bool is_inside(const preprocess::Region& region, int64_t height, int64_t width) {
  return region.top >= 0 && region.left >= 0 && region.height > 0 && region.width > 0 &&
         region.height <= height - region.top && region.width <= width - region.left;
}

// Blocks of 8 x 8 become 4 x 4, 2 x 2 or 1.  A progressive file is held whole, whatever it is scaled to.
// False: the region lies elsewhere.
bool choose_size(jpeg_decompress_struct* jpeg, JpegSize* size) {
  if (size->choose) size->wanted = size->choose(jpeg->image_height, jpeg->image_width);
  jpeg->scale_num = 1;
  jpeg->scale_denom = static_cast<unsigned>(size->wanted.shrink);
  jpeg_calc_output_dimensions(jpeg);
  size->too_large = jpeg_has_multiple_scans(jpeg) ? too_many(jpeg->image_height, jpeg->image_width)
                                                  : too_many(jpeg->output_height, jpeg->output_width);
  preprocess::Region& region = size->wanted.region;
  if (region == preprocess::Region{}) region = {0, 0, jpeg->output_height, jpeg->output_width};
  return is_inside(region, jpeg->output_height, jpeg->output_width);
}

// Goes to the first row of the region.  Returns the column where rows begin from here on: blocks beside the
// region are not transformed, but for those that the colours at its edges are interpolated with.  Of what
// four pixels share a colour, libjpeg-turbo knows no part.
JDIMENSION go_to(jpeg_decompress_struct* jpeg, const preprocess::Region& region) {
  constexpr int64_t kBeside = 2;
  if (jpeg->max_h_samp_factor > 2 || jpeg->max_v_samp_factor > 2) return 0;
  const int64_t begin = std::max<int64_t>(0, region.left - kBeside);
  const int64_t end = std::min<int64_t>(jpeg->output_width, region.left + region.width + kBeside);
  auto left = static_cast<JDIMENSION>(begin), width = static_cast<JDIMENSION>(end - begin);
  if (width < jpeg->output_width) jpeg_crop_scanline(jpeg, &left, &width);
  if (region.top > 0) jpeg_skip_scanlines(jpeg, static_cast<JDIMENSION>(region.top));
  return left;
}

// The rows of the region.
void read_rows(jpeg_decompress_struct* jpeg, const preprocess::Region& region, bool four_inks,
               uint8_t* pixels) {
  const JDIMENSION left = go_to(jpeg, region);
  const size_t width = jpeg->output_width, before = static_cast<size_t>(region.left) - left;
  const size_t channels = four_inks ? 4 : 3, wanted = static_cast<size_t>(region.width);
  JSAMPROW line = nullptr;  // the library's, gone with it
  const auto top = static_cast<JDIMENSION>(region.top);
  if (four_inks || wanted < width || jpeg->output_scanline < top) {
    line = jpeg->mem->alloc_sarray(reinterpret_cast<j_common_ptr>(jpeg), JPOOL_IMAGE,
                                   static_cast<JDIMENSION>(width * channels), 1)[0];
  }
  while (jpeg->output_scanline < top) jpeg_read_scanlines(jpeg, &line, 1);
  for (int64_t row = 0; row < region.height; ++row, pixels += wanted * 3) {
    JSAMPROW to = line != nullptr ? line : pixels;
    jpeg_read_scanlines(jpeg, &to, 1);
    if (four_inks) {
      to_rgb({line + before * 4, wanted * 4}, jpeg->saw_Adobe_marker != FALSE, pixels);
    } else if (line != nullptr) {
      std::memcpy(pixels, line + before * 3, wanted * 3);
    }
  }
}

// Between setjmp and the end of this function there is nothing with a destructor.  False: errors->message.
bool read_jpeg(jpeg_decompress_struct* jpeg, JpegErrors* errors, std::span<const uint8_t> file,
               RgbImage* image, JpegSize* size) {
  if (setjmp(errors->back) != 0) return false;
  jpeg_create_decompress(jpeg);
  jpeg_mem_src(jpeg, file.data(), static_cast<unsigned long>(file.size()));
  jpeg_read_header(jpeg, TRUE);
  errors->one_scan = jpeg_has_multiple_scans(jpeg) == FALSE;
  const bool four_inks = jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK;
  jpeg->out_color_space = four_inks ? JCS_CMYK : JCS_RGB;
  jpeg->dct_method = JDCT_ISLOW;  // the same bits on every machine
  const bool inside = choose_size(jpeg, size);
  if (size->too_large) return true;
  FURROW_CHECK(inside, "a region outside of the image");
  const preprocess::Region& region = size->wanted.region;
  *image = image_of(static_cast<uint64_t>(region.height), static_cast<uint64_t>(region.width));
  jpeg_start_decompress(jpeg);
  read_rows(jpeg, region, four_inks, image->pixels.data());
  errors->all_pixels = true;  // of several scans all were read before the first row
  if (jpeg->output_scanline == jpeg->output_height) {
    jpeg_finish_decompress(jpeg);
  } else {
    jpeg_abort_decompress(jpeg);
  }
  return true;
}

DecodedImage decode_jpeg(std::span<const uint8_t> file, const ChooseWanted& choose) {
  jpeg_decompress_struct jpeg{};
  JpegErrors errors{};
  jpeg.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = &leave;
  errors.manager.emit_message = &warn;
  DecodedImage image;
  JpegSize size{choose};
  const bool done = read_jpeg(&jpeg, &errors, file, &image.pixels, &size);
  const uint64_t height = jpeg.image_height, width = jpeg.image_width;
  jpeg_destroy_decompress(&jpeg);
  if (!done) damaged(errors.message);
  if (size.too_large) refuse_size(height, width);
  image.shrink = size.wanted.shrink;
  image.region = size.wanted.region;
  return image;
}

// Of an animation its first picture, black where that leaves the whole free.  The others are not decoded.
void decode_first(std::span<const uint8_t> file, RgbImage* image) {
  WebPAnimDecoderOptions options;
  if (WebPAnimDecoderOptionsInit(&options) == 0) throw Error(ErrorCode::kInternal, "another libwebpdemux");
  options.color_mode = MODE_RGBA;
  const WebPData data{file.data(), file.size()};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&data, &options), &WebPAnimDecoderDelete);
  WebPAnimInfo info{};
  if (!decoder || WebPAnimDecoderGetInfo(decoder.get(), &info) == 0 || info.canvas_width != image->width ||
      info.canvas_height != image->height)
    damaged("it does not divide into the pictures of an animated WebP");
  uint8_t* pixels = nullptr;
  int time = 0;
  if (WebPAnimDecoderGetNext(decoder.get(), &pixels, &time) == 0)
    damaged("its first picture does not decode as WebP");
  drop_alpha({pixels, image->pixels.size() / 3 * 4}, image->pixels.data());
}

RgbImage decode_webp(std::span<const uint8_t> file) {
  WebPBitstreamFeatures features{};
  if (WebPGetFeatures(file.data(), file.size(), &features) != VP8_STATUS_OK) damaged("no WebP header");
  RgbImage image = image_of(static_cast<uint64_t>(features.height), static_cast<uint64_t>(features.width));
  if (features.has_animation != 0) {
    decode_first(file, &image);
    return image;
  }
  if (WebPDecodeRGBInto(file.data(), file.size(), image.pixels.data(), image.pixels.size(),
                        features.width * 3) == nullptr) {
    damaged("it does not decode as WebP");
  }
  return image;
}

bool starts_with(std::span<const uint8_t> file, std::string_view magic) {
  return file.size() >= magic.size() && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

DecodedImage decode_image(std::span<const uint8_t> file, const ChooseWanted& choose) {
  if (starts_with(file, "\xff\xd8\xff")) return decode_jpeg(file, choose);
  const bool webp =
      starts_with(file, "RIFF") && file.size() >= 12 && std::memcmp(file.data() + 8, "WEBP", 4) == 0;
  if (!webp && !starts_with(file, "\x89PNG\r\n\x1a\n"))
    throw Error(ErrorCode::kDataLoss, "this is no PNG, JPEG or WebP image");
  DecodedImage image{webp ? decode_webp(file) : decode_png(file)};
  image.region = {0, 0, image.pixels.height, image.pixels.width};
  if (choose) choose(image.pixels.height, image.pixels.width);
  return image;
}

RgbImage decode_image(std::span<const uint8_t> file) { return decode_image(file, {}).pixels; }

int shrink_to(int64_t length, int64_t wanted) {
  int shrink = 1;
  while (shrink < 8 && length >= 2 * shrink * wanted) shrink *= 2;
  return shrink;
}

namespace {

template <size_t N>
bool ends_as(std::string_view name, const std::string_view (&endings)[N]) {
  std::string lower(name);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::ranges::any_of(endings, [&](std::string_view ending) { return lower.ends_with(ending); });
}

constexpr std::string_view kEndings[] = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"};
constexpr std::string_view kOtherEndings[] = {".bmp", ".gif", ".tif",  ".tiff", ".ppm",
                                              ".pgm", ".jp2", ".heic", ".avif"};

}  // namespace

bool is_image_name(std::string_view name) { return ends_as(name, kEndings); }

bool is_other_image_name(std::string_view name) { return ends_as(name, kOtherEndings); }

}  // namespace furrow::data
