// Costs from FLOPs and bytes: Williams, Waterman, Patterson, "Roofline: an insightful visual performance
// model", 2009, with one efficiency for all units.
#include <algorithm>
#include <utility>

#include "furrow/plan/cost.h"
#include "furrow/plan/roofline.h"
#include "furrow/plan/value_bytes.h"

namespace furrow::plan {
namespace {

constexpr double kLossPasses = 6;  // maximum, exponents, sum, logarithm, gradient, of the last output
// What kernels reserve for a thread (tensor/kernels/scratch_blocks.h), and communication takes at least
// (comm/call.cc).
constexpr int64_t kKernelBlock = int64_t{4} << 20;
constexpr int64_t kCommBlock = int64_t{1} << 20;
constexpr double kBatchPasses = 2;  // from the loader's memory into tensors

class AnalyticCosts : public Costs {
 public:
  AnalyticCosts(Cluster cluster, DType compute) : cluster_(std::move(cluster)), compute_(compute) {}

  const Cluster& cluster() const override { return cluster_; }
  std::string source() const override { return "analytic"; }

  double unit_seconds(const UnitWork& work) const override {
    const DeviceSpec& device = cluster_.device;
    if (const auto stated = stated_seconds(work)) return std::max(device.overhead_s, *stated);
    const Roofline roofline = roofline_of(work);
    const DType type = work.unit->compute == DType::kF32 ? compute_ : work.unit->compute;
    const double peak = peak_flops(device, type) * device.efficiency;
    return device.overhead_s +
           std::max(roofline.flops / peak, roofline.bytes / device.memory_bytes_per_second);
  }
  double flat_seconds(Op /*op*/, int64_t bytes) const override {
    return overhead_seconds() + static_cast<double>(bytes) / cluster_.device.memory_bytes_per_second;
  }
  double batch_seconds(int64_t bytes) const override {
    return overhead_seconds() +
           kBatchPasses * static_cast<double>(bytes) / cluster_.device.memory_bytes_per_second;
  }
  double loss_seconds(int64_t bytes) const override {
    return overhead_seconds() +
           kLossPasses * static_cast<double>(bytes) / cluster_.device.memory_bytes_per_second;
  }
  double overhead_seconds() const override { return cluster_.device.overhead_s; }
  int64_t workspace_bytes(bool multiplies, int threads) const override {
    if (cluster_.device.kind != DeviceKind::kCpu) return 0;  // unknown
    const int blocks = threads > 0 ? threads : cluster_.device.threads;
    return (multiplies ? blocks * kKernelBlock : 0) + (cluster_.world() > 1 ? kCommBlock : 0);
  }
  std::vector<Leg> legs(const MovementCall& call) const override { return legs_of(cluster_, call); }

 private:
  Cluster cluster_;
  DType compute_;
};

}  // namespace

double peak_flops(const DeviceSpec& device, DType type) {
  const double peak = device.flops(type);
  return peak > 0 ? peak : device.f32_flops;
}

Roofline roofline_of(const UnitWork& work) {
  const Unit& unit = *work.unit;
  const auto samples = static_cast<double>(work.samples);
  const auto parameters =
      static_cast<double>(unit.parameter_count() * static_cast<int64_t>(dtype_size(unit.compute)));
  const auto in = samples * static_cast<double>(unit.input.bytes_per_sample());
  const auto out = samples * static_cast<double>(unit.output.bytes_per_sample());
  const auto saved = samples * static_cast<double>(unit.saved_bytes);
  const auto deferred = samples * static_cast<double>(unit.deferred_bytes);
  switch (work.work) {
    case Work::kForward:
      return {unit.flops.forward * samples, in + out + saved + parameters};
    case Work::kBackwardInput: {
      const double flops = work.input_gradient ? unit.flops.backward_input * samples : 0;
      return {flops, out + in + saved + deferred + parameters};
    }
    case Work::kBackwardWeight:
      return {unit.flops.backward_weight * samples, in + deferred + parameters};
    default:
      return {};
  }
}

// Its first unit's gradient goes on to nobody, but the block sleeps all the same.
std::optional<double> stated_seconds(const UnitWork& work) {
  if (work.unit->kind != "delay") return std::nullopt;
  const char* key = work.work == Work::kForward         ? "forward_ms"
                    : work.work == Work::kBackwardInput ? "backward_input_ms"
                                                        : "backward_weight_ms";
  return attribute<double>(*work.unit, key) * 1e-3;
}

std::unique_ptr<Costs> analytic_costs(Cluster cluster, DType compute) {
  return std::make_unique<AnalyticCosts>(std::move(cluster), compute);
}

}  // namespace furrow::plan
