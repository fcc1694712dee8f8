#include "furrow/observe/pictures.h"

#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <numeric>

#include "furrow/base/base64.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/observe/svg.h"

namespace furrow::observe {
namespace {

constexpr double kTop = 44, kMargin = 16;

std::string text_at(double x, double y, std::string_view anchor, std::string_view content,
                    std::string_view more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     xml_escape(content));
}

std::string title_of(const std::string& title) {
  return text_at(kMargin, 26, "start", title, " font-size=\"16\" font-weight=\"bold\"");
}

// White to the blue of the loss curve.
std::string shade(double share) {
  const auto mix = [share](int to) { return static_cast<int>(255 + (to - 255) * share + 0.5); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0x00), mix(0x72), mix(0xb2));
}

class ConfusionDrawing {
 public:
  ConfusionDrawing(const ConfusionMatrix& matrix, const std::string& title)
      : matrix_(matrix),
        title_(title),
        cell_(matrix.classes <= 12 ? 44 : std::max(10.0, 560.0 / static_cast<double>(matrix.classes))) {
    size_t longest = 2;
    for (const std::string& name : matrix.names) longest = std::max(longest, name.size());
    left_ = kMargin + 24 + 8 * static_cast<double>(longest);
    top_ = kTop + 36;
  }

  std::string svg() const {
    const double side = cell_ * static_cast<double>(matrix_.classes);
    std::string out = svg_begin(left_ + side + kMargin, top_ + side + kMargin) + title_of(title_);
    out += text_at(left_ + side / 2, kTop + 6, "middle", "predicted");
    const double middle = top_ + side / 2;
    out += text_at(kMargin + 4, middle, "middle", "target",
                   fmt::format(" transform=\"rotate(-90 {:.1f} {:.1f})\"", kMargin + 4, middle));
    for (int64_t target = 0; target < matrix_.classes; ++target) out += row(target);
    return out + "</svg>\n";
  }

 private:
  std::string row(int64_t target) const {
    const double y = top_ + static_cast<double>(target) * cell_;
    const auto first = matrix_.counts.begin() + target * matrix_.classes;
    const auto total = std::max<int64_t>(1, std::accumulate(first, first + matrix_.classes, int64_t{0}));
    std::string out;
    if (cell_ >= 14) {
      out += text_at(left_ - 6, y + cell_ / 2 + 4, "end", matrix_.name(target));
      out += text_at(left_ + (static_cast<double>(target) + 0.5) * cell_, top_ - 6, "middle",
                     fmt::format("{}", target));
    }
    for (int64_t predicted = 0; predicted < matrix_.classes; ++predicted) {
      const int64_t count = matrix_.at(target, predicted);
      const double share = static_cast<double>(count) / static_cast<double>(total);
      const double x = left_ + static_cast<double>(predicted) * cell_;
      out += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\" "
          "stroke=\"#eee\"/>\n",
          x, y, cell_, cell_, shade(share));
      if (cell_ < 40 || count == 0) continue;
      out += text_at(x + cell_ / 2, y + cell_ / 2 + 4, "middle", fmt::format("{}", count),
                     share > 0.5 ? " fill=\"#fff\"" : "");
    }
    return out;
  }

  const ConfusionMatrix& matrix_;
  const std::string& title_;
  double cell_, left_, top_;
};

}  // namespace

std::string ConfusionMatrix::name(int64_t of) const {
  const auto at = static_cast<size_t>(of);
  return at < names.size() ? names[at] : fmt::format("{}", of);
}

std::vector<std::string> list_pictures(const std::string& run_folder) {
  std::vector<std::string> found;
  for (const std::string_view name : kPictureFiles) {
    if (path_exists(fmt::format("{}/{}", run_folder, name))) found.emplace_back(name);
  }
  return found;
}

std::string confusion_svg(const ConfusionMatrix& matrix, const std::string& title) {
  return ConfusionDrawing(matrix, title).svg();
}

std::string to_png(const GridImage& image) {
  FURROW_CHECK(image.channels == 1 || image.channels == 3, "an image of other channels");
  FURROW_CHECK(image.pixels.size() == static_cast<size_t>(image.height * image.width * image.channels),
               "an image of another size");
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.width);
  header.height = static_cast<png_uint_32>(image.height);
  header.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(header);
  std::string out(bytes, '\0');
  if (png_image_write_to_memory(&header, out.data(), &bytes, 0, image.pixels.data(), 0, nullptr) == 0)
    throw Error(ErrorCode::kInternal, fmt::format("no PNG: {}", header.message));
  out.resize(bytes);
  return out;
}

std::string image_grid_svg(const std::vector<GridImage>& images, int64_t columns, const std::string& title) {
  FURROW_CHECK(columns > 0, "a grid without columns");
  const int64_t height = images.empty() ? 1 : images[0].height, width = images.empty() ? 1 : images[0].width;
  const double scale = std::max(1.0, 84.0 / static_cast<double>(std::max(height, width)));
  const double cell_x = scale * static_cast<double>(width) + 12,
               cell_y = scale * static_cast<double>(height) + 30;
  const auto rows = (static_cast<int64_t>(images.size()) + columns - 1) / columns;
  std::string out = svg_begin(2 * kMargin + cell_x * static_cast<double>(columns),
                              kTop + kMargin + cell_y * static_cast<double>(rows)) +
                    title_of(title);
  for (size_t i = 0; i < images.size(); ++i) {
    const GridImage& image = images[i];
    const double x = kMargin + cell_x * static_cast<double>(static_cast<int64_t>(i) % columns);
    const double y = kTop + cell_y * static_cast<double>(static_cast<int64_t>(i) / columns);
    out += fmt::format(
        "<image x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
        "style=\"image-rendering:pixelated\" "
        "href=\"data:image/png;base64,{}\"/>\n",
        x, y, scale * static_cast<double>(width), scale * static_cast<double>(height),
        to_base64(to_png(image)));
    out += text_at(x + scale * static_cast<double>(width) / 2, y + cell_y - 14, "middle", image.caption,
                   image.marked ? " fill=\"#d55e00\"" : "");
  }
  return out + "</svg>\n";
}

}  // namespace furrow::observe
