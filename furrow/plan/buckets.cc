#include "furrow/plan/buckets.h"

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

bool is_summed_over_uses(const FlatLayout& flat, int32_t unit) {
  return std::any_of(flat.tied.begin(), flat.tied.end(),
                     [unit](const TiedUse& tied) { return tied.owner_unit == unit && tied.use > 0; });
}

// Whether `next` can be in the bucket of the unit before it.
bool alike(const Unit& unit, const Unit& next) {
  const bool chained = next.source == kUnitBefore && !next.detached;
  return chained && next.compute == unit.compute && next.inference == unit.inference;
}

// Whether buffers of units [a, b) of which `elements` count end where that of b begins.
template <class Elements>
bool adjoin(const FlatLayout& flat, int32_t a, int32_t b, const Elements& elements) {
  for (int32_t u = a + 1; u < b; ++u) {
    if (elements(flat.units[u]) > 0) return false;
  }
  return true;
}

// Buffers of gradients end where the trained elements do, those of parameters go on.
bool are_neighbours(const FlatLayout& flat, const Placement& placement, Op op, int32_t a, int32_t b) {
  const auto all = [](const UnitLayout& unit) { return unit.elements; };
  const auto trained = [](const UnitLayout& unit) { return unit.trained_elements; };
  if (a < 0 || a >= b || placement.bucket_of(a) != placement.bucket_of(b)) return false;
  if (op == Op::kGatherParams) return adjoin(flat, a, b, all);
  if (op == Op::kGatherUpdated)
    return flat.units[a].trained_elements == flat.units[a].elements && adjoin(flat, a, b, all);
  return adjoin(flat, a, b, trained);
}

// The same values but for their unit, all of use 0, or gathers of whatever number.
bool are_alike(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Value& x, Value y) {
    y.unit = x.unit;
    if (x.kind == ValueKind::kGathered) y.index = x.index;
    return x == y && (x.kind != ValueKind::kGradient || x.index == 0);
  });
}

bool continues(const FlatLayout& flat, const Placement& placement, const Instruction& a,
               const Instruction& b) {
  const bool joins = b.op == Op::kReduceGrads || b.op == Op::kGatherGrads || b.op == Op::kGatherParams ||
                     b.op == Op::kGatherUpdated;
  return joins && a.op == b.op && a.axis == b.axis && are_neighbours(flat, placement, b.op, a.unit, b.unit) &&
         are_alike(a.reads, b.reads) && are_alike(a.writes, b.writes);
}

}  // namespace

std::vector<int32_t> buckets_of(const ModelSpec& spec, int64_t most_bytes) {
  const FlatLayout flat = flat_layout(spec);
  std::vector<int32_t> buckets(flat.units.size());
  int64_t bytes = 0;
  bool open = false, shared = false;
  for (size_t u = 0; u < buckets.size(); ++u) {
    const int64_t own = flat.units[u].elements * flat.gradient_bytes();
    const bool small =
        own <= most_bytes && !flat.units[u].offload && !is_summed_over_uses(flat, static_cast<int32_t>(u));
    const bool joins = open && small && bytes + own <= most_bytes && alike(spec.units[u - 1], spec.units[u]);
    buckets[u] = joins ? buckets[u - 1] : static_cast<int32_t>(u);
    bytes = joins ? bytes + own : own;
    open = small;
    shared = shared || joins;
  }
  return shared ? buckets : std::vector<int32_t>();
}

std::vector<int32_t> run_ends(const FlatLayout& flat, const Program& program) {
  const std::vector<Instruction>& list = program.instructions;
  const bool shares = !program.placement.buckets.empty();
  std::vector<int32_t> ends(list.size());
  for (size_t i = list.size(); i-- > 0;) {
    const bool joined =
        shares && i + 1 < list.size() && continues(flat, program.placement, list[i], list[i + 1]);
    ends[i] = joined ? ends[i + 1] : static_cast<int32_t>(i);
  }
  return ends;
}

Slice end_to_end(std::span<const Slice> slices, std::span<const int64_t> sizes) {
  Slice all;
  int64_t before = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    if (slices[i].size() > 0) {
      if (all.size() == 0) all = {before + slices[i].begin, before + slices[i].begin};
      FURROW_CHECK(all.end == before + slices[i].begin, "the slices of a bucket do not lie end to end");
      all.end = before + slices[i].end;
    }
    before += sizes[i];
  }
  return all;
}

}  // namespace furrow::plan
