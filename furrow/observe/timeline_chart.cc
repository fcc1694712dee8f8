#include "furrow/observe/timeline_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "furrow/base/text.h"
#include "furrow/observe/svg.h"

namespace furrow::observe {
namespace {

constexpr double kWidth = 1200, kLeft = 170, kRight = 20, kTop = 44;
constexpr double kPlotWidth = kWidth - kLeft - kRight;
constexpr double kLane = 26, kLaneGap = 6, kAxis = 34, kMemoryHeight = 150, kLegendRow = 20;
// Okabe and Ito's palette and lighter ones of it, told apart with every common colour blindness.
constexpr std::array<std::string_view, 10> kPalette = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
                                                       "#56b4e9", "#f0e442", "#999999", "#7f4f24", "#b5c7e3"};

size_t place_of(const std::string& name, std::vector<std::string>* names) {
  const auto found = std::ranges::find(*names, name);
  if (found != names->end()) return static_cast<size_t>(found - names->begin());
  names->push_back(name);
  return names->size() - 1;
}

class Drawing {
 public:
  explicit Drawing(const TimelineChart& chart) : chart_(chart) {
    if (chart.events.empty()) return;
    begin_ns_ = std::ranges::min_element(chart.events, {}, &TraceEvent::start_ns)->start_ns;
    for (const TraceEvent& event : chart.events) {
      end_ns_ = std::max(end_ns_, event.start_ns + event.duration_ns - begin_ns_);
      place_of(event.stream, &lanes_);
      place_of(event.category, &operations_);
    }
    const bool some = !chart.memory.empty();
    for (size_t kind = 0; some && kind < kMemoryKinds; ++kind) {
      if (std::ranges::any_of(chart.memory, [kind](const MemoryMoment& m) { return m.bytes[kind] > 0; }))
        kinds_.push_back(kind);
    }
  }

  std::string svg() {
    const double lanes = static_cast<double>(lanes_.size()) * (kLane + kLaneGap);
    const double memory = kinds_.empty() ? 0 : kMemoryHeight + kLegendRow + 20;
    const double legend = kLegendRow * static_cast<double>((operations_.size() + 5) / 6);
    std::string out = svg_begin(kWidth, kTop + lanes + kAxis + legend + memory + 20);
    out_ = std::move(out);
    text(kLeft, 26, "start", chart_.title, " font-size=\"16\" font-weight=\"bold\"");
    for (size_t lane = 0; lane < lanes_.size(); ++lane) text(kLeft - 8, y_of(lane) + 17, "end", lanes_[lane]);
    for (const TraceEvent* event : visible()) draw(*event);
    ticks(kTop + lanes);
    double y = kTop + lanes + kAxis + 10;
    std::vector<std::string> names = operations_;
    y = draw_legend(names, y);
    if (!kinds_.empty()) draw_memory(y + 6);
    return out_ + "</svg>\n";
  }

 private:
  double x_of(int64_t ns) const {
    return kLeft + kPlotWidth * static_cast<double>(ns) / static_cast<double>(std::max<int64_t>(1, end_ns_));
  }
  static double y_of(size_t lane) { return kTop + static_cast<double>(lane) * (kLane + kLaneGap); }

  void text(double x, double y, std::string_view anchor, std::string_view content,
            std::string_view more = "") {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor,
                        more, xml_escape(content));
  }

  void box(double x, double y, double width, double height, std::string_view color, const std::string& tip) {
    out_ += fmt::format("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\">", x,
                        y, std::max(0.3, width), height, color);
    out_ += fmt::format("<title>{}</title></rect>\n", xml_escape(tip));
  }

  void draw(const TraceEvent& event) {
    const double x = x_of(event.start_ns - begin_ns_);
    const std::string tip =
        fmt::format("{}, {} us", event.name, format_fixed(static_cast<double>(event.duration_ns) / 1e3, 1));
    box(x, y_of(place_of(event.stream, &lanes_)), x_of(event.start_ns - begin_ns_ + event.duration_ns) - x,
        kLane, kPalette[place_of(event.category, &operations_) % kPalette.size()], tip);
  }

  // Of very many events, one a pixel and lane where they are narrower than that: the longest.
  std::vector<const TraceEvent*> visible() const {
    constexpr size_t kMany = 5000;
    std::vector<const TraceEvent*> events;
    std::map<std::pair<std::string, int64_t>, const TraceEvent*> narrow;  // by lane and pixel
    for (const TraceEvent& event : chart_.events) {
      const double x = x_of(event.start_ns - begin_ns_);
      const bool wide = x_of(event.start_ns - begin_ns_ + event.duration_ns) - x >= 1;
      if (chart_.events.size() <= kMany || wide) {
        events.push_back(&event);
        continue;
      }
      const TraceEvent*& kept = narrow[{event.stream, static_cast<int64_t>(x)}];
      if (kept == nullptr || kept->duration_ns < event.duration_ns) kept = &event;
    }
    for (const auto& [place, event] : narrow) events.push_back(event);
    return events;
  }

  // Of very many moments, one a pixel: that with the most memory.
  std::vector<MemoryMoment> visible_memory() const {
    constexpr size_t kMany = 2000;
    if (chart_.memory.size() <= kMany) return chart_.memory;
    const auto total = [](const MemoryMoment& moment) {
      return std::accumulate(moment.bytes.begin(), moment.bytes.end(), int64_t{0});
    };
    std::map<int64_t, MemoryMoment> most;  // by pixel
    for (const MemoryMoment& moment : chart_.memory) {
      const auto pixel = static_cast<int64_t>(x_of(moment.time_ns - begin_ns_));
      const auto [kept, first] = most.try_emplace(pixel, moment);
      if (!first && total(moment) > total(kept->second)) kept->second.bytes = moment.bytes;
    }
    std::vector<MemoryMoment> moments;
    for (const auto& [pixel, moment] : most) moments.push_back(moment);
    return moments;
  }

  void ticks(double y) {
    constexpr int kTicks = 8;
    for (int i = 0; i <= kTicks; ++i) {
      const int64_t ns = end_ns_ * i / kTicks;
      out_ +=
          fmt::format("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#333\"/>\n",
                      x_of(ns), y, y + 5);
      text(x_of(ns), y + 20, "middle",
           format_fixed(static_cast<double>(ns) / 1e6, 2) + (i == kTicks ? " ms" : ""));
    }
  }

  double draw_legend(const std::vector<std::string>& names, double y) {
    for (size_t i = 0; i < names.size(); ++i) {
      const double x = kLeft + static_cast<double>(i % 6) * kPlotWidth / 6;
      const double row = y + kLegendRow * static_cast<double>(i / 6);
      box(x, row, 12, 12, kPalette[i % kPalette.size()], names[i]);
      text(x + 18, row + 11, "start", names[i]);
    }
    return y + kLegendRow * static_cast<double>((names.size() + 5) / 6);
  }

  // Kinds on top of one another, each as it is until the next moment.
  void draw_memory(double top) {
    int64_t most = 1;
    const std::vector<MemoryMoment> moments = visible_memory();
    for (const MemoryMoment& moment : moments)
      most = std::max(most, std::accumulate(moment.bytes.begin(), moment.bytes.end(), int64_t{0}));
    const double bottom = top + kMemoryHeight;
    for (size_t i = 0; i < moments.size(); ++i) {
      const int64_t from = moments[i].time_ns - begin_ns_;
      const int64_t to = i + 1 < moments.size() ? moments[i + 1].time_ns - begin_ns_ : end_ns_;
      if (to > from) draw_column(moments[i], from, to, bottom, kMemoryHeight / static_cast<double>(most));
    }
    text(kLeft - 8, top + 12, "end", format_bytes(static_cast<uint64_t>(most)));
    text(kLeft - 8, bottom, "end", "planned memory");
    std::vector<std::string> names;
    for (const size_t kind : kinds_) names.emplace_back(to_string(static_cast<MemoryKind>(kind)));
    draw_legend(names, bottom + 10);
  }

  void draw_column(const MemoryMoment& moment, int64_t from, int64_t to, double bottom, double scale) {
    double y = bottom;
    for (size_t i = 0; i < kinds_.size(); ++i) {
      const int64_t bytes = moment.bytes[kinds_[i]];
      const double height = static_cast<double>(bytes) * scale;
      if (bytes == 0) continue;
      y -= height;
      box(x_of(from), y, x_of(to) - x_of(from), height, kPalette[i % kPalette.size()],
          fmt::format("{} {}", to_string(static_cast<MemoryKind>(kinds_[i])),
                      format_bytes(static_cast<uint64_t>(bytes))));
    }
  }

  const TimelineChart& chart_;
  int64_t begin_ns_ = 0, end_ns_ = 0;
  std::vector<std::string> lanes_, operations_;
  std::vector<size_t> kinds_;
  std::string out_;
};

}  // namespace

std::string to_svg(const TimelineChart& chart) { return Drawing(chart).svg(); }

}  // namespace furrow::observe
