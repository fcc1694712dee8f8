// Where each parameter lies in its unit's flat buffers.  Parameters, gradients and optimizer state of a unit
// have this one layout, so that an optimizer or a collective handles one span.  Gradients and state end where
// the trained elements do.
//
// A unit that computes in low precision, or whose optimizer is on the host, has its parameters twice:
// params(u,v) of its type, which blocks read and gathers move, and float32 masters, which are the first state
// of its optimizer.
//
// Invariants: trained parameters first, then frozen ones; of each, whole ones (Parameter::whole), then the
// others; of each, those that decay, then the others; parameters of one rule together, rules and parameters
// in declaration order.  Every parameter starts on a multiple of ModelSpec::alignment elements (16: 64 bytes
// of float32); a whole one crosses a line of the grid only where it begins on one; the trained elements, the
// whole ones among them where others follow, and the whole are padded to a multiple of kGrid elements with
// zeros.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/plan/model_spec.h"

namespace furrow::plan {

inline constexpr int64_t kGrid = 1024;  // elements: sums and shards are cut only here

struct FlatSpan {
  int parameter = 0;   // index into Unit::parameters
  int64_t offset = 0;  // elements
  int64_t size = 0;    // elements
  int64_t rows = 0;    // as a matrix, the first dim by all others; 0: it has fewer than two dims
  bool whole = false;  // Parameter::whole
};

// Elements of one rule.
struct FlatGroup {
  int64_t begin = 0, end = 0;
  bool decays = true;
  ParameterRule rule = {};
  friend bool operator==(const FlatGroup&, const FlatGroup&) = default;
};

// A use of parameters by a unit.  Use 0 of a unit is its own flat buffer; each later unit that ties a
// parameter of it adds a use, whose gradient buffer holds only that parameter.
struct TiedUse {
  int owner_unit = 0;  // whose parameter it is
  int use = 1;        // 1, 2, ... in unit order; 0: it is frozen or borrowed, and has no gradient of this use
  int user_unit = 0;  // who reads it
  int user_parameter = 0;
  int64_t owner_offset = 0;  // elements, in the owner's flat buffer
  int64_t size = 0;          // elements
};

// Where a statistic lies in its unit's flat buffer of them, and in what a microbatch says of them; every one
// starts on a multiple of 16 elements.
struct StatisticSpan {
  int statistic = 0;   // index into Unit::statistics
  int64_t offset = 0;  // elements of four bytes
  int64_t size = 0;    // the same: an int64 is two
};

struct UnitLayout {
  std::vector<FlatSpan> spans;    // own parameters, by order of offset
  std::vector<FlatGroup> groups;  // of the trained elements, without gaps
  int64_t whole_elements = 0;     // [0, whole_elements) hold whole trained parameters, the rest others
  int64_t trained_elements = 0;   // [0, trained_elements) have gradients and state
  int64_t elements = 0;           // padded
  std::vector<StatisticSpan> statistics = {};
  int64_t statistic_elements = 0;  // of four bytes, padded; 0: no statistics
  // Behind the running statistics, where training folds them, lies their average, in the same order.
  bool averages_statistics = false;
  DType compute = DType::kF32;  // of params(u,v) and gathered(u,g)
  bool offload = false;         // Unit::offload

  int64_t param_bytes() const { return static_cast<int64_t>(dtype_size(compute)); }  // of an element
  int64_t kept_statistics() const {
    return averages_statistics ? 2 * statistic_elements : statistic_elements;
  }
  // Flat float32 buffers beside params.
  int masters() const { return compute == DType::kF32 && !offload ? 0 : 1; }
};

struct FlatLayout {
  std::vector<UnitLayout> units;
  std::vector<TiedUse> tied;
  DType reduce = DType::kF32;  // of gradients: ModelSpec::reduce

  bool rounds_gradients() const { return reduce != DType::kF32; }
  int64_t gradient_bytes() const { return static_cast<int64_t>(dtype_size(reduce)); }  // of an element
  bool has_masters() const;                                                            // of any unit
  bool offloads() const;  // the optimizer of any unit is on the host
};

UnitLayout unit_layout(const Unit& unit, int64_t alignment = kAlign);
FlatLayout flat_layout(const ModelSpec& spec);

}  // namespace furrow::plan
