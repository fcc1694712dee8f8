#include "furrow/observe/loss_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>

#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/observe/metrics_log.h"
#include "furrow/observe/svg.h"

namespace furrow::observe {
namespace {

constexpr double kWidth = 840, kHeight = 480;
constexpr double kLeft = 70, kRight = 20, kTop = 44, kBottom = 54;
constexpr double kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;
constexpr size_t kSmoothFrom = 40;  // points
// Okabe and Ito's palette, told apart with every common colour blindness.
constexpr std::array<std::string_view, 6> kPalette = {"#0072b2", "#d55e00", "#009e73",
                                                      "#cc79a7", "#e69f00", "#56b4e9"};

using Points = std::vector<std::pair<double, double>>;

std::string_view color_of(const Series& series) {
  return kPalette[static_cast<size_t>(series.color) % kPalette.size()];
}

// One axis: the range of the data, widened to round ticks, and its way to pixels.
struct Axis {
  double low = 0, high = 1, step = 0.2;
  double share(double value) const { return (value - low) / (high - low); }
};

// Ticks at 1, 2 or 5 times a power of ten, about `count` of them.
double round_step(double range, int count) {
  const double rough = range / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

Axis make_axis(double low, double high, int ticks) {
  if (!(low <= high)) return {};
  if (low == high) high = low + std::max(1e-6, std::abs(low) * 0.1);
  Axis axis;
  axis.step = round_step(high - low, ticks);
  axis.low = std::floor(low / axis.step) * axis.step;
  axis.high = std::ceil(high / axis.step) * axis.step;
  return axis;
}

Points finite_points(const Points& points) {
  Points out;
  std::copy_if(points.begin(), points.end(), std::back_inserter(out),
               [](const auto& point) { return std::isfinite(point.first) && std::isfinite(point.second); });
  return out;
}

std::array<Axis, 2> axes_of(const Chart& chart) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::array<double, 2> low = {kInfinity, kInfinity}, high = {-kInfinity, -kInfinity};
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : finite_points(series.points)) {
      low = {std::min(low[0], x), std::min(low[1], y)};
      high = {std::max(high[0], x), std::max(high[1], y)};
    }
  }
  Axis x = make_axis(low[0], high[0], 8);
  if (low[0] < high[0]) x.low = low[0] < 0.1 * high[0] ? 0 : low[0], x.high = high[0];
  return {x, make_axis(low[1], high[1], 6)};
}

// At most four points a pixel column: first, lowest, highest, last, in their order.
Points thinned(const Points& points, const Axis& x_axis) {
  const auto column = [&](double x) { return std::floor(x_axis.share(x) * kPlotWidth); };
  Points out;
  for (size_t begin = 0; begin < points.size();) {
    size_t end = begin, low = begin, high = begin;
    for (; end < points.size() && column(points[end].first) == column(points[begin].first); ++end) {
      if (points[end].second < points[low].second) low = end;
      if (points[end].second > points[high].second) high = end;
    }
    std::array<size_t, 4> keep = {begin, low, high, end - 1};
    std::sort(keep.begin(), keep.end());
    const auto last = std::unique(keep.begin(), keep.end());
    for (auto index = keep.begin(); index != last; ++index) out.push_back(points[*index]);
    begin = end;
  }
  return out;
}

class Drawing {
 public:
  explicit Drawing(const Chart& chart) : chart_(chart), axes_(axes_of(chart)) {}

  std::string svg() {
    out_ = svg_begin(kWidth, kHeight);
    text(kLeft, 26, "start", chart_.title, " font-size=\"16\" font-weight=\"bold\"");
    x_ticks();
    y_ticks();
    for (const Series& series : chart_.series) curve(series);
    legend();
    return out_ + "</svg>\n";
  }

 private:
  double x_pixel(double x) const { return kLeft + axes_[0].share(x) * kPlotWidth; }
  double y_pixel(double y) const { return kTop + (1 - axes_[1].share(y)) * kPlotHeight; }

  void text(double x, double y, std::string_view anchor, std::string_view content,
            std::string_view more = "") {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor,
                        more, xml_escape(content));
  }
  void line(double x1, double y1, double x2, double y2, std::string_view color) {
    out_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1,
                        y1, x2, y2, color);
  }
  static std::string tick_text(double value, double step) {
    const int decimals = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
    if (decimals == 0 && std::abs(value) >= 1000) return format_count(std::llround(value));
    return format_fixed(value == 0 ? 0 : value, decimals);
  }
  void x_ticks() {
    const Axis& axis = axes_[0];
    const double bottom = kTop + kPlotHeight;
    for (double i = std::ceil(axis.low / axis.step); i * axis.step <= axis.high * (1 + 1e-12); ++i) {
      const double x = x_pixel(i * axis.step);
      line(x, kTop, x, bottom, "#eee");
      text(x, bottom + 19, "middle", tick_text(i * axis.step, axis.step));
    }
    line(kLeft, bottom, kLeft + kPlotWidth, bottom, "#333");
    text(kLeft + kPlotWidth / 2, kHeight - 12, "middle", chart_.x_label);
  }
  void y_ticks() {
    const Axis& axis = axes_[1];
    const auto count = std::llround((axis.high - axis.low) / axis.step);
    const double first = std::round(axis.low / axis.step);
    for (int64_t i = 0; i <= count; ++i) {
      const double value = (first + static_cast<double>(i)) * axis.step;
      line(kLeft, y_pixel(value), kLeft + kPlotWidth, y_pixel(value), "#eee");
      text(kLeft - 8, y_pixel(value) + 4, "end", tick_text(value, axis.step));
    }
    line(kLeft, kTop, kLeft, kTop + kPlotHeight, "#333");
    const double middle = kTop + kPlotHeight / 2;
    text(18, middle, "middle", chart_.y_label, fmt::format(" transform=\"rotate(-90 18 {:.1f})\"", middle));
  }
  void curve(const Series& series) {
    const Points points = thinned(finite_points(series.points), axes_[0]);
    const bool faint = series.style == Series::Style::kFaint;
    out_ += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"{} points=\"",
                        color_of(series), faint ? "1" : "1.8", faint ? " stroke-opacity=\"0.3\"" : "");
    for (const auto& [x, y] : points) out_ += fmt::format("{:.1f},{:.1f} ", x_pixel(x), y_pixel(y));
    out_ += "\"/>\n";
    if (series.style != Series::Style::kMarked) return;
    for (const auto& [x, y] : points) {
      out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x_pixel(x),
                          y_pixel(y), color_of(series));
    }
  }
  void legend() {
    double y = kTop + 18;
    for (const Series& series : chart_.series) {
      if (series.name.empty()) continue;
      const double right = kLeft + kPlotWidth - 12;
      line(right - 26, y - 4, right, y - 4, color_of(series));
      if (series.style == Series::Style::kMarked) {
        out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", right - 13, y - 4,
                            color_of(series));
      }
      text(right - 34, y, "end", series.name);
      y += 19;
    }
  }

  const Chart& chart_;
  std::array<Axis, 2> axes_;
  std::string out_;
};

Points points_of(const std::vector<StepRecord>& records, std::string_view name) {
  Points points;
  for (const StepRecord& record : records) {
    if (const double* value = find_value(record, name))
      points.emplace_back(static_cast<double>(record.step), *value);
  }
  return points;
}

// Exponential moving average, its start corrected for bias (Kingma and Ba, "Adam", 2015, section 3).
Points smoothed(const Points& points) {
  constexpr double kKeep = 0.9;
  double mean = 0, weight = 0;
  Points out;
  for (const auto& [x, y] : finite_points(points)) {
    mean = kKeep * mean + (1 - kKeep) * y;
    weight = kKeep * weight + (1 - kKeep);
    out.emplace_back(x, mean / weight);
  }
  return out;
}

}  // namespace

std::string to_svg(const Chart& chart) { return Drawing(chart).svg(); }

std::string loss_chart_svg(const std::vector<std::pair<std::string, std::vector<StepRecord>>>& runs) {
  Chart chart;
  chart.x_label = "step";
  chart.y_label = "loss";
  int color = 0;
  std::vector<std::string> names;
  for (const auto& [path, records] : runs) {
    const std::string name = std::filesystem::path(path).filename().string();
    const std::string prefix = runs.size() > 1 ? name + " " : "";
    names.push_back(name);
    const Points training = points_of(records, "loss");
    const bool noisy = training.size() >= kSmoothFrom;
    if (noisy) chart.series.push_back({"", training, Series::Style::kFaint, color});
    chart.series.push_back(
        {prefix + "training", noisy ? smoothed(training) : training, Series::Style::kLine, color++});
    const Points validation = points_of(records, "validation_loss");
    if (!validation.empty()) {
      chart.series.push_back({prefix + "validation", validation, Series::Style::kMarked, color++});
    }
  }
  chart.title = "Loss of " + join(names, ", ");
  return to_svg(chart);
}

void LossChartSink::end(const std::string& /*status*/) {
  const auto records = read_metrics(run_folder_ + "/metrics.jsonl");
  if (!records.empty())
    write_file_atomic(run_folder_ + "/loss.svg", loss_chart_svg({{run_folder_, records}}));
}

}  // namespace furrow::observe
