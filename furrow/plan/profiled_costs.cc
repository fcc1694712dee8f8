// Costs as measured, where more work takes no less.  A unit that was measured is interpolated over samples;
// another size of its kind takes the ratio of measured to analytic time of those that were, each at as many
// samples, weighted by inverse squared distance in FLOPs and bytes (Shepard, "A two-dimensional interpolation
// function for irregularly-spaced data", 1968), on logarithmic axes.
#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/plan/measured_name.h"
#include "furrow/plan/profile.h"
#include "furrow/plan/roofline.h"

namespace furrow::plan {
namespace {

struct Point {
  double x = 0;  // samples or bytes
  double seconds = 0;
};

// Past the last: along the line from one of half its size, as those nearly as large as it tell noise and no
// slope; in proportion where there is none.
double beyond(const std::vector<Point>& points, double x, double floor) {
  const Point& last = points.back();
  if (last.x <= 0) return std::max(floor, last.seconds);
  const auto above_half = std::ranges::upper_bound(points, last.x / 2, {}, &Point::x);
  if (above_half == points.begin()) return std::max(floor, last.seconds * x / last.x);
  const Point& half = *(above_half - 1);
  const double rise = std::max((last.seconds - half.seconds) / (last.x - half.x), 0.0);
  return std::max(floor, last.seconds + rise * (x - last.x));
}

// Through the points; before the first in proportion, but not below what does nothing takes.
double interpolate(const std::vector<Point>& points, double x, double floor) {
  const auto above = std::ranges::lower_bound(points, x, {}, &Point::x);
  if (above == points.end()) return beyond(points, x, floor);
  if (above->x == x) return above->seconds;
  if (points.size() == 1) return std::max(floor, above->seconds * x / above->x);
  const size_t right = std::max<size_t>(static_cast<size_t>(above - points.begin()), 1);
  const Point &a = points[right - 1], &b = points[right];
  const double slope = (b.seconds - a.seconds) / (b.x - a.x);
  if (x < points.front().x) return std::max({floor, a.seconds - slope * (a.x - x), a.seconds * x / a.x});
  return std::max(floor, b.seconds + slope * (x - b.x));
}

// More work takes no less, whatever a machine with other things to do has shown: the fit of least squares
// that never falls, by pooling neighbours that do (Barlow et al., "Statistical Inference under Order
// Restrictions", 1972).
void make_rising(std::vector<Point>* points) {
  struct Pool {
    double sum = 0;
    size_t count = 0;
    double mean() const { return sum / static_cast<double>(count); }
  };
  std::vector<Pool> pools;
  for (const Point& point : *points) {
    pools.push_back({point.seconds, 1});
    while (pools.size() > 1 && pools[pools.size() - 2].mean() > pools.back().mean()) {
      const Pool last = pools.back();
      pools.pop_back();
      pools.back().sum += last.sum;
      pools.back().count += last.count;
    }
  }
  auto next = points->begin();
  for (const Pool& pool : pools) {
    const double mean = pool.mean();
    for (size_t i = 0; i < pool.count; ++i) (next++)->seconds = mean;
  }
}

// Within the points; beyond them as at the last.
double nearby(const std::vector<Point>& points, double x) {
  return interpolate(points, std::clamp(x, points.front().x, points.back().x), 0);
}

void insert(std::vector<Point>* points, Point point) {
  const auto place = std::ranges::lower_bound(*points, point.x, {}, &Point::x);
  if (place != points->end() && place->x == point.x) {
    place->seconds = point.seconds;
  } else {
    points->insert(place, point);
  }
}

// What units of a work_kind() compute in.
DType type_of(std::string_view kind) {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    std::string word = ".";
    word += to_string(type);
    if (kind.ends_with(word) || kind.find(word + ".") != std::string_view::npos) return type;
  }
  return DType::kF32;
}

bool is_copy_name(std::string_view name) {
  return name == op_info(Op::kCopyDown).name || name == op_info(Op::kCopyUp).name;
}

// A unit as it was measured, over samples.
struct Measured {
  std::vector<Point> seconds, launches;
  std::vector<Point> flops, bytes;  // not seconds: of the roofline
};

class ProfiledCosts : public Costs {
 public:
  ProfiledCosts(Cluster cluster, const ProfileSection& section, DType compute)
      : analytic_(analytic_costs(std::move(cluster), compute)),
        behind_(std::ranges::any_of(section.units, [](const UnitSample& unit) { return unit.launch_s > 0; })),
        overhead_s_(section.overhead_s),
        work_overhead_s_(behind_ ? 0 : overhead_s_),
        threads_(section.threads),
        on_cores_(section.device.type == "cpu"),
        workspace_bytes_(section.workspace_bytes) {
    if (workspace_bytes_ == 0 && on_cores_) workspace_bytes_ = analytic_->workspace_bytes(true, threads_);
    for (const UnitSample& unit : section.units) add(unit);
    for (const FlatSample& flat : section.flats) {
      insert(&flats_[flat.op], {static_cast<double>(flat.bytes), flat.seconds});
      insert(&launches_[flat.op], {static_cast<double>(flat.bytes), flat.launch_s});
    }
    for (const MovementSample& move : section.movements)
      insert(&movements_[{move.name, move.ranks}], {static_cast<double>(move.bytes), move.seconds});
    for (auto& [kind, units] : units_) {
      for (auto& [key, unit] : units) make_rising(&unit.seconds);
    }
    for (auto& [op, points] : flats_) make_rising(&points);
    for (auto& [name, points] : movements_) make_rising(&points);
  }

  const Cluster& cluster() const override { return analytic_->cluster(); }
  std::string source() const override { return "profiled"; }
  double overhead_seconds() const override { return overhead_s_; }
  int64_t workspace_bytes(bool multiplies, int threads) const override {
    if (!on_cores_) return workspace_bytes_;  // of libraries, whatever the threads
    const int64_t analytic = analytic_->workspace_bytes(multiplies, threads);
    if (!multiplies) return std::min(workspace_bytes_, analytic);
    return threads == 0 || threads == threads_ ? workspace_bytes_ : analytic;
  }

  double unit_seconds(const UnitWork& work) const override {
    if (const auto stated = stated_seconds(work)) return std::max(work_overhead_s_, *stated);
    const double bare = bare_seconds(roofline_of(work), work.unit->compute);
    auto kind = units_.find({work_kind(*work.unit), work.work});
    if (kind != units_.end()) {
      const auto found = kind->second.find(work_key(work));
      if (found != kind->second.end())
        return interpolate(found->second.seconds, static_cast<double>(work.samples), work_overhead_s_);
    }
    if (kind == units_.end()) kind = nearest_kind(work);
    const double ratio = kind == units_.end() ? ratio_of_all(work.work) : ratio_near(*kind, work);
    return work_overhead_s_ + bare * ratio;
  }

  // The thread tells a device of as many operations whatever their size: of another size of a kind the mean
  // of those that were measured, of another kind that of all.
  std::optional<double> launch_seconds(const UnitWork& work) const override {
    if (!behind_) return std::nullopt;
    auto kind = units_.find({work_kind(*work.unit), work.work});
    if (kind == units_.end()) kind = nearest_kind(work);
    if (kind == units_.end()) return mean_launch([&](const auto& each) { return each.second == work.work; });
    const auto found = kind->second.find(work_key(work));
    if (found != kind->second.end()) return nearby(found->second.launches, static_cast<double>(work.samples));
    return mean_launch([&](const auto& each) { return each == kind->first; });
  }
  std::optional<double> launch_seconds(std::string_view op, int64_t bytes) const override {
    if (!behind_) return std::nullopt;
    const auto found = launches_.find(std::string(op));
    return found == launches_.end() ? overhead_s_ : nearby(found->second, static_cast<double>(bytes));
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
    const auto found = find_movement(call);
    const int host = cluster().host_of(call.self);
    const bool inside =
        std::ranges::all_of(call.ranks, [&](int rank) { return cluster().host_of(rank) == host; });
    if (found == nullptr || !inside || legs.empty()) return legs;
    const double bytes = static_cast<double>(call.bytes), messages = static_cast<double>(call.messages);
    const double measured = messages * interpolate(*found, bytes / messages, 0);
    const double times = measured * call.sharers / seconds_of(legs);
    for (Leg& leg : legs) leg.seconds *= times;
    return legs;
  }

 private:
  using Kind = std::pair<const std::pair<std::string, Work>, std::map<std::string, Measured>>;

  using Kinds = std::map<std::pair<std::string, Work>, std::map<std::string, Measured>>;

  // As a unit that no other rank shares, else as in float32.
  Kinds::const_iterator nearest_kind(const UnitWork& work) const {
    Unit alone;
    alone.kind = work.unit->kind;
    alone.compute = work.unit->compute;
    const auto kind = units_.find({work_kind(alone), work.work});
    return kind != units_.end() ? kind : units_.find({alone.kind, work.work});
  }

  double bare_seconds(const Roofline& roofline, DType type) const {
    const DeviceSpec& device = cluster().device;
    return std::max(roofline.flops / (peak_flops(device, type) * device.efficiency),
                    roofline.bytes / device.memory_bytes_per_second);
  }

  void add(const UnitSample& unit) {
    Measured& of = units_[{unit.kind, unit.work}][unit.key];
    const auto samples = static_cast<double>(unit.samples);
    insert(&of.seconds, {samples, unit.seconds});
    insert(&of.launches, {samples, unit.launch_s});
    insert(&of.flops, {samples, unit.flops});
    insert(&of.bytes, {samples, unit.bytes});
  }

  // Measured over analytic time, of so many samples that were measured; negative: the roofline knows nothing
  // of it.
  double ratio_at(const Measured& unit, double samples, DType type) const {
    const double analytic = bare_seconds(roofline_at(unit, samples), type);
    if (analytic <= 0) return -1;
    return std::max(interpolate(unit.seconds, samples, work_overhead_s_) - work_overhead_s_, 0.0) / analytic;
  }

  // Of the works whose kind is among them, at the largest size of each.
  template <class Among>
  double mean_launch(const Among& among) const {
    double sum = 0;
    int count = 0;
    for (const auto& [kind, units] : units_) {
      if (!among(kind)) continue;
      for (const auto& [key, unit] : units) {
        sum += unit.launches.back().seconds;
        ++count;
      }
    }
    return count == 0 ? overhead_s_ : sum / count;
  }

  static Roofline roofline_at(const Measured& unit, double samples) {
    return {interpolate(unit.flops, samples, 0), interpolate(unit.bytes, samples, 0)};
  }

  // Compared at as many samples, or the next number that was measured.
  double ratio_near(const Kind& kind, UnitWork work) const {
    double sum = 0, weights = 0;
    const DType type = type_of(kind.first.first);
    const auto wanted = static_cast<double>(work.samples);
    for (const auto& [key, unit] : kind.second) {
      const double samples = std::clamp(wanted, unit.seconds.front().x, unit.seconds.back().x);
      const double ratio = ratio_at(unit, samples, type);
      if (ratio < 0) continue;
      work.samples = std::llround(samples);
      const Roofline at = roofline_of(work), each = roofline_at(unit, samples);
      const double f = std::log1p(each.flops) - std::log1p(at.flops);
      const double b = std::log1p(each.bytes) - std::log1p(at.bytes);
      const double weight = 1 / (f * f + b * b + 1e-6);
      sum += weight * ratio;
      weights += weight;
    }
    return weights > 0 ? sum / weights : 1;
  }

  // Of a kind that was not measured: as the median of those that were.
  double ratio_of_all(Work work) const {
    std::vector<double> all;
    for (const auto& [kind, units] : units_) {
      if (kind.second != work) continue;
      for (const auto& [key, unit] : units) {
        const double ratio = ratio_at(unit, unit.seconds.back().x, type_of(kind.first));
        if (ratio >= 0) all.push_back(ratio);
      }
    }
    if (all.empty()) return 1;
    std::ranges::nth_element(all, all.begin() + static_cast<long>(all.size() / 2));
    return all[all.size() / 2];
  }

  // The operation as steps run it, else as others do, else nothing but its movement.
  const std::vector<Point>* find_movement(const MovementCall& call) const {
    for (const std::string_view name :
         {call.operation, without_variety(call.operation), movement_name(call.movement)}) {
      const auto found = movements_.find({std::string(name), static_cast<int>(call.ranks.size())});
      if (found != movements_.end()) return &found->second;
    }
    return nullptr;
  }

  double by_bytes(const std::string& op, int64_t bytes, double analytic) const {
    const auto found = flats_.find(op);
    if (found == flats_.end()) return analytic;
    const bool threads = op == "load" || !behind_;  // batches are the thread's work
    return interpolate(found->second, static_cast<double>(bytes), threads ? overhead_s_ : 0);
  }

  std::unique_ptr<Costs> analytic_;
  bool behind_;             // a device computes behind the thread
  double overhead_s_;       // of the thread
  double work_overhead_s_;  // in what units take
  int threads_;
  bool on_cores_;
  int64_t workspace_bytes_;
  Kinds units_;  // by work_kind(); by work_key()
  std::map<std::string, std::vector<Point>> flats_, launches_;
  std::map<std::pair<std::string, int>, std::vector<Point>> movements_;  // name, ranks
};

}  // namespace

DeviceSpec measured_device(const ProfileSection& section) {
  DeviceSpec device{.name = section.device.name,
                    .kind = DeviceKind::kGpu,
                    .memory_bytes = section.device.memory_bytes,
                    .efficiency = 1,
                    .source = "measured"};
  for (const UnitSample& unit : section.units) {
    if (unit.seconds <= 0) continue;
    const bool half = type_of(unit.kind) != DType::kF32;
    double& peak = half ? device.half_flops : device.f32_flops;
    peak = std::max(peak, unit.flops / unit.seconds);
    device.memory_bytes_per_second = std::max(device.memory_bytes_per_second, unit.bytes / unit.seconds);
  }
  for (const FlatSample& flat : section.flats) {
    if (flat.seconds > 0 && flat.op != "load")
      device.memory_bytes_per_second =
          std::max(device.memory_bytes_per_second, static_cast<double>(flat.bytes) / flat.seconds);
  }
  for (const MovementSample& move : section.movements) {
    if (move.seconds > 0 && is_copy_name(move.name))
      device.host_bytes_per_second =
          std::max(device.host_bytes_per_second, static_cast<double>(move.bytes) / move.seconds);
  }
  if (device.f32_flops == 0) device.f32_flops = device.half_flops;
  if (device.half_flops == 0) device.half_flops = device.f32_flops;
  return device;
}

std::unique_ptr<Costs> profiled_costs(Cluster cluster, const ProfileSection& section, DType compute) {
  return std::make_unique<ProfiledCosts>(std::move(cluster), section, compute);
}

}  // namespace furrow::plan
