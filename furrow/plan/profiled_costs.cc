// Costs as measured.  A unit that was measured is interpolated over samples; another size of its kind takes
// the ratio of measured to analytic time of its neighbours in FLOPs and bytes, weighted by inverse squared
// distance (Shepard, "A two-dimensional interpolation function for irregularly-spaced data", 1968), on
// logarithmic axes.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/roofline.h"

namespace furrow::plan {
namespace {

struct Point {
  double x = 0;  // samples or bytes
  double seconds = 0;
};

// Through the points; beyond the last along its last stretch, before the first in proportion, but not below
// what does nothing takes.
double interpolate(const std::vector<Point>& points, double x, double floor) {
  const auto above = std::ranges::lower_bound(points, x, {}, &Point::x);
  if (above != points.end() && above->x == x) return above->seconds;
  if (points.size() == 1) {
    const double times = points[0].x > 0 ? x / points[0].x : 1;
    return std::max(floor, points[0].seconds * times);
  }
  const size_t right = std::clamp<size_t>(static_cast<size_t>(above - points.begin()), 1, points.size() - 1);
  const Point &a = points[right - 1], &b = points[right];
  const double slope = (b.seconds - a.seconds) / (b.x - a.x);
  if (x < points.front().x) return std::max({floor, a.seconds - slope * (a.x - x), a.seconds * x / a.x});
  const double rise = x > b.x ? std::max(slope, 0.0) : slope;
  return std::max(floor, b.seconds + rise * (x - b.x));
}

void insert(std::vector<Point>* points, Point point) {
  const auto place = std::ranges::lower_bound(*points, point.x, {}, &Point::x);
  if (place != points->end() && place->x == point.x) {
    place->seconds = point.seconds;
  } else {
    points->insert(place, point);
  }
}

// Measured over analytic, at a place of the roofline.
struct Ratio {
  double flops = 0, bytes = 0;  // logarithms
  double ratio = 1;
};

class ProfiledCosts : public Costs {
 public:
  ProfiledCosts(Cluster cluster, const ProfileSection& section, DType compute)
      : analytic_(analytic_costs(std::move(cluster), compute)), overhead_s_(section.overhead_s) {
    for (const UnitSample& unit : section.units) add(unit);
    for (const FlatSample& flat : section.flats)
      insert(&flats_[flat.op], {static_cast<double>(flat.bytes), flat.seconds});
    for (const MovementSample& move : section.movements)
      insert(&movements_[{move.movement, move.ranks}], {static_cast<double>(move.bytes), move.seconds});
  }

  const Cluster& cluster() const override { return analytic_->cluster(); }
  std::string source() const override { return "profiled"; }
  double overhead_seconds() const override { return overhead_s_; }

  double unit_seconds(const UnitWork& work) const override {
    const Unit& unit = *work.unit;
    const auto found = units_.find({unit.kind, work_key(work), work.work});
    if (found != units_.end() && unit.tensor_degree == 1)
      return interpolate(found->second, static_cast<double>(work.samples), overhead_s_);
    const auto ratios = ratios_.find({unit.kind, work.work});
    const double analytic = bare_seconds(roofline_of(work));
    if (ratios == ratios_.end()) return overhead_s_ + analytic * ratio_of_all(work.work);
    return overhead_s_ + analytic * ratio_near(ratios->second, roofline_of(work));
  }

  double flat_seconds(Op op, int64_t bytes) const override {
    return by_bytes(std::string(op_info(op).name), bytes, analytic_->flat_seconds(op, bytes));
  }
  double batch_seconds(int64_t bytes) const override {
    return by_bytes("load", bytes, analytic_->batch_seconds(bytes));
  }
  double loss_seconds(int64_t bytes) const override {
    return by_bytes("loss", bytes, analytic_->loss_seconds(bytes));
  }

  // As measured inside a host; the analytic legs, stretched, where another number of ranks was.
  std::vector<Leg> legs(const MovementCall& call) const override {
    std::vector<Leg> legs = analytic_->legs(call);
    const auto found = movements_.find({call.movement, static_cast<int>(call.ranks.size())});
    const int host = cluster().host_of(call.self);
    const bool inside =
        std::ranges::all_of(call.ranks, [&](int rank) { return cluster().host_of(rank) == host; });
    if (found == movements_.end() || !inside || legs.empty()) return legs;
    const double bytes = static_cast<double>(call.bytes), messages = static_cast<double>(call.messages);
    const double measured = messages * interpolate(found->second, bytes / messages, 0);
    const double times = measured * call.sharers / seconds_of(legs);
    for (Leg& leg : legs) leg.seconds *= times;
    return legs;
  }

 private:
  double bare_seconds(const Roofline& roofline) const {
    const DeviceSpec& device = cluster().device;
    return std::max(roofline.flops / (device.f32_flops * device.efficiency),
                    roofline.bytes / device.memory_bytes_per_second);
  }

  void add(const UnitSample& unit) {
    insert(&units_[{unit.kind, unit.key, unit.work}], {static_cast<double>(unit.samples), unit.seconds});
    const double analytic = bare_seconds({unit.flops, unit.bytes});
    if (analytic <= 0) return;
    const double ratio = std::max(unit.seconds - overhead_s_, 0.0) / analytic;
    ratios_[{unit.kind, unit.work}].push_back({std::log1p(unit.flops), std::log1p(unit.bytes), ratio});
  }

  static double ratio_near(const std::vector<Ratio>& ratios, const Roofline& at) {
    double sum = 0, weights = 0;
    for (const Ratio& each : ratios) {
      const double f = each.flops - std::log1p(at.flops), b = each.bytes - std::log1p(at.bytes);
      const double weight = 1 / (f * f + b * b + 1e-6);
      sum += weight * each.ratio;
      weights += weight;
    }
    return sum / weights;
  }

  // Of a kind that was not measured: as the median of those that were.
  double ratio_of_all(Work work) const {
    std::vector<double> all;
    for (const auto& [key, ratios] : ratios_) {
      if (key.second != work) continue;
      for (const Ratio& each : ratios) all.push_back(each.ratio);
    }
    if (all.empty()) return 1;
    std::ranges::nth_element(all, all.begin() + static_cast<long>(all.size() / 2));
    return all[all.size() / 2];
  }

  double by_bytes(const std::string& op, int64_t bytes, double analytic) const {
    const auto found = flats_.find(op);
    if (found == flats_.end()) return analytic;
    return interpolate(found->second, static_cast<double>(bytes), overhead_s_);
  }

  std::unique_ptr<Costs> analytic_;
  double overhead_s_;
  std::map<std::tuple<std::string, std::string, Work>, std::vector<Point>> units_;
  std::map<std::pair<std::string, Work>, std::vector<Ratio>> ratios_;
  std::map<std::string, std::vector<Point>> flats_;
  std::map<std::pair<Movement, int>, std::vector<Point>> movements_;
};

}  // namespace

std::unique_ptr<Costs> profiled_costs(Cluster cluster, const ProfileSection& section, DType compute) {
  return std::make_unique<ProfiledCosts>(std::move(cluster), section, compute);
}

}  // namespace furrow::plan
