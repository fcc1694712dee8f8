// The operations of tensor/ops_torch.h on sizes, for block_memory.cc.  Internal to models.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/models/memory_tape.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {

// What an activation keeps for backward: nothing else than its output (ReLU), or its slope (GELU).
enum class KeptByActivation : uint8_t { kNone, kOutput, kSlope };

// What a tensor axis cuts of a layer, as tensor::Cut: its outputs, over positions that are gathered first, or
// its inputs, whose sums are scattered over positions.
enum class SizedCut : uint8_t { kColumns, kRows };

// What a layer has of a unit's parameters.
struct SizedLayer {
  int64_t out = 0;      // of one rank
  bool trains = false;  // the weight; its gradient is formed later
  const plan::Adapter* adapter = nullptr;
  int64_t rank = 0;
  bool adapter_trains = false;
  SizedCut cut = SizedCut::kColumns;  // over a tensor axis
};

// The operations of tensor/ops_torch.h over one sample, rows x columns numbers each.  Of 16 bits those that
// work on float32 copies make them here too; kernels' own scratch is not counted.  Of one rank of a tensor
// axis `rows` are its positions; products and attention work on those of all ranks, of its columns.
class SizedOperations {
 public:
  using Memory = MemoryTape::Memory;
  using Tensor = MemoryTape::Tensor;

  SizedOperations(const plan::Unit& unit, int64_t rows)
      : unit_(unit),
        rows_(rows),
        degree_(unit.tensor_degree),
        all_rows_(rows * degree_),
        bytes_(number_bytes(unit)),
        trains_(any_trains(unit)) {}

  MemoryTape& tape() { return tape_; }
  bool trains() const { return trains_; }
  // Float32 copies for the gradient of one convolution's weight, which counts as workspace.
  int64_t weight_peak() const { return weight_peak_; }
  Memory numbers(int64_t columns) { return tape_.make(rows_ * columns * bytes_); }
  Memory floats(int64_t columns) { return tape_.make(rows_ * columns * kFloatBytes); }
  void forget_deferred() { deferred_.clear(); }
  int64_t part(int64_t columns) const { return (columns + degree_ - 1) / degree_; }  // of one rank

  SizedLayer layer(std::string_view name, int64_t out, SizedCut cut = SizedCut::kColumns) const {
    SizedLayer layer{cut == SizedCut::kColumns ? part(out) : out};
    layer.cut = cut;
    for (size_t i = 0; i < unit_.parameters.size(); ++i) {
      if (!unit_.parameters[i].name.ends_with(name)) continue;
      layer.trains = trained(i);
      for (const plan::Adapter& adapter : unit_.adapters) {
        if (adapter.weight != static_cast<int>(i)) continue;
        layer.adapter = &adapter;
        layer.rank = unit_.parameters[static_cast<size_t>(adapter.a)].shape[0];
        layer.adapter_trains =
            trained(static_cast<size_t>(adapter.a)) || trained(static_cast<size_t>(adapter.b));
      }
      break;
    }
    return layer;
  }

  // layer_norm with two statistics of a row, rms_norm with one.
  Tensor norm(const Tensor& x, int64_t columns, int64_t statistics) {
    const Memory kept = floats(statistics), wide = widened(x.memory, columns), y = floats(columns);
    const Memory out = narrowed(y, columns);
    return tape_.record(out, {x}, trains_, [this, x = x.memory, kept, columns](const Memory& dy) {
      const Memory wide_dy = widened(dy, columns), wide_x = widened(x, columns), dx = floats(columns);
      return std::vector{narrowed(dx, columns)};
    });
  }

  Tensor linear(const Tensor& x, int64_t in, const SizedLayer& layer,
                KeptByActivation activation = KeptByActivation::kNone) {
    if (degree_ > 1 && layer.cut == SizedCut::kRows) return scattered(x, part(in), layer);
    if (layer.adapter == nullptr)
      return plain(x, {in, layer.out, layer.trains, activation == KeptByActivation::kSlope});
    const Tensor z = sum(plain(x, {in, layer.out, layer.trains}), adapted(x, in, layer, false));
    return activated(z, layer.out, activation);
  }

  // One that a block applies by itself.
  Tensor separate(const Tensor& x, int64_t columns, bool slope) {
    const Memory y = numbers(columns), gate = slope ? numbers(columns) : y;
    return tape_.record(y, {x}, false,
                        [this, gate, columns](const Memory&) { return std::vector{numbers(columns)}; });
  }

  // conv2d of images of so many elements; `codes`: bytes that say where its gradient goes.
  Tensor plain_convolution(const Tensor& x, int64_t in, int64_t out, bool trains, int64_t codes = 0) {
    const Memory wide = widened(x.memory, in), y = floats(out);
    const bool asks = x.needs_gradient();
    const Memory kept = codes > 0 ? tape_.make(codes) : nullptr;
    if (trains && narrow()) weight_peak_ = std::max(weight_peak_, rows_ * (in + out) * kFloatBytes);
    return tape_.record(narrowed(y, out), {x}, trains_, [=, this, x = x.memory](const Memory& dy) {
      defer(trains, x, dy);
      defer(trains, kept, nullptr);
      if (!asks) return std::vector<Memory>{};
      const Memory wide_dy = widened(dy, out), dx = floats(in);
      return std::vector{narrowed(dx, in)};
    });
  }

  // conv2d of an adapted layer, of images of so many elements; `thin`: those between the two matrices.
  Tensor convolution(const Tensor& x, int64_t in, const SizedLayer& layer, int64_t thin) {
    const Tensor base = plain_convolution(x, in, layer.out, layer.trains);
    const Tensor kept = dropped(x, in, layer);
    const Tensor behind = plain_convolution(kept, in, thin, layer.adapter_trains);
    return sum(base, plain_convolution(scaled(behind, thin), thin, layer.out, layer.adapter_trains));
  }

  // strided_conv2d of images of so many elements, in their own type throughout.
  Tensor pixel_convolution(const Tensor& x, int64_t in, const SizedLayer& layer, int64_t thin) {
    const Tensor base = plain_pixel_convolution(x, in, layer.out, layer.trains);
    if (layer.adapter == nullptr) return base;
    const Tensor behind = plain_pixel_convolution(dropped(x, in, layer), in, thin, layer.adapter_trains);
    return sum(base, plain_pixel_convolution(scaled(behind, thin), thin, layer.out, layer.adapter_trains));
  }

  // With a ReLU, whose output backward reads, and what is added before it.
  Tensor batch_norm(const Tensor& x, int64_t columns, bool relu, const Tensor& past = {}) {
    const bool adds = past.needs_gradient();
    const Memory y = numbers(columns), gate = relu ? y : nullptr;
    return tape_.record(y, {x, past}, trains_, [this, x = x.memory, gate, columns, adds](const Memory&) {
      const Memory dx = numbers(columns);
      return std::vector{dx, adds ? numbers(columns) : nullptr};
    });
  }

  // What only chooses and pads.
  Tensor resized(const Tensor& x, int64_t in, int64_t out) {
    return tape_.record(numbers(out), {x}, false,
                        [this, in](const Memory&) { return std::vector{numbers(in)}; });
  }

  // In the place of z.  A kept output is no more memory; a slope is.
  Tensor activated(const Tensor& z, int64_t columns, KeptByActivation activation) {
    if (activation == KeptByActivation::kNone) return z;
    const bool slopes = activation == KeptByActivation::kSlope;
    const Memory wide = widened(z.memory, columns), wide_slope = slopes ? floats(columns) : nullptr;
    const Memory y = narrowed(wide, columns), gate = slopes ? narrowed(wide_slope, columns) : y;
    return tape_.record(y, {z}, false,
                        [this, gate, columns](const Memory&) { return std::vector{numbers(columns)}; });
  }

  // 2x2 maxima and where they were.
  Tensor pooled(const Tensor& x, int64_t in, int64_t out) {
    const Memory y = numbers(out), places = tape_.make(rows_ * out * kPlaceBytes);
    return tape_.record(y, {x}, false,
                        [this, x = x.memory, places, in](const Memory&) { return std::vector{numbers(in)}; });
  }

  // Layers over one input, results side by side.
  Tensor side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers) {
    const bool adapted =
        std::ranges::any_of(layers, [](const SizedLayer& layer) { return layer.adapter != nullptr; });
    if (!adapted) return plain_side_by_side(x, in, layers);
    const Tensor beside = adapters_side_by_side(x, in, layers);
    return sum(plain_side_by_side(x, in, layers), beside);
  }

  Tensor attention(const Tensor& qkv, int64_t qkv_columns, int64_t heads, int64_t columns) {
    const Memory sums = tape_.make(all_rows_ * part(heads) * kFloatBytes), out = all_numbers(part(columns));
    return tape_.record(out, {qkv}, false, [this, qkv = qkv.memory, out, sums, qkv_columns](const Memory&) {
      return std::vector{all_numbers(part(qkv_columns))};
    });
  }

  Tensor swiglu(const Tensor& both, int64_t columns) {
    const int64_t own = part(columns);
    return tape_.record(all_numbers(own), {both}, false, [this, both = both.memory, own](const Memory&) {
      return std::vector{all_numbers(2 * own)};
    });
  }

  // residual + dropout(x)
  Tensor add(const Tensor& residual, const Tensor& x, int64_t columns, bool drops) {
    const Memory wide_a = widened(residual.memory, columns), wide_b = widened(x.memory, columns),
                 wide = floats(columns);
    return tape_.record(narrowed(wide, columns), {residual, x}, false,
                        [this, columns, drops](const Memory& dy) {
                          return std::vector{dy, drops ? masked(dy, columns) : dy};
                        });
  }

 private:
  static constexpr int64_t kPlaceBytes = 8;

  static bool any_trains(const plan::Unit& unit) {
    return std::ranges::any_of(
        unit.parameters, [](const plan::Parameter& each) { return !each.rule.frozen && !each.borrowed; });
  }
  bool trained(size_t parameter) const {
    return !unit_.parameters[parameter].rule.frozen && !unit_.parameters[parameter].borrowed;
  }

  Memory all_numbers(int64_t columns) { return tape_.make(all_rows_ * columns * bytes_); }
  Memory all_floats(int64_t columns) { return tape_.make(all_rows_ * columns * kFloatBytes); }
  bool narrow() const { return bytes_ < kFloatBytes; }
  Memory widened(const Memory& x, int64_t columns) { return narrow() ? floats(columns) : x; }
  Memory narrowed(const Memory& wide, int64_t columns) { return narrow() ? numbers(columns) : wide; }
  Memory masked(const Memory& x, int64_t columns) {
    const Memory wide = widened(x, columns), out = floats(columns);
    return narrowed(out, columns);
  }

  void defer(bool trains, const Memory& x, const Memory& dy) {
    if (trains) deferred_.insert(deferred_.end(), {x, dy});
  }

  struct Product {
    int64_t in = 0, out = 0;
    bool trains = false, gelu = false;
    bool strided = false;  // its gradient is a part of another, which is copied
  };
  Tensor plain(const Tensor& x, const Product& p) {
    const Memory whole = gathered(x.memory, p.in);
    const Memory y = all_numbers(p.out), slope = p.gelu ? all_numbers(p.out) : nullptr;
    const bool asks = x.needs_gradient();
    return tape_.record(y, {x}, trains_, [this, p, slope, asks, x = whole](const Memory& given) {
      const Memory dy = p.strided ? numbers(p.out) : given, dz = p.gelu ? all_numbers(p.out) : dy;
      defer(p.trains, x, dz);
      if (!asks) return std::vector<Memory>{nullptr};
      if (degree_ == 1) return std::vector{numbers(p.in)};
      const Memory part = all_floats(p.in), sum = scattered_sum(p.in);
      return std::vector{narrowed(sum, p.in)};
    });
  }

  // A product over a part of the inputs: float32 sums of all positions, of which each rank keeps its own.
  Tensor scattered(const Tensor& x, int64_t in, const SizedLayer& layer) {
    const bool asks = x.needs_gradient();
    const Memory part = all_floats(layer.out), sum = scattered_sum(layer.out);
    return tape_.record(narrowed(sum, layer.out), {x}, trains_,
                        [this, layer, in, asks, x = x.memory](const Memory& dy) {
                          defer(layer.trains, x, gathered(dy, layer.out));
                          return std::vector{asks ? all_numbers(in) : nullptr};
                        });
  }

  // Over a tensor axis: the positions of all ranks, by way of a buffer in the order of ranks.
  Memory gathered(const Memory& x, int64_t columns) {
    if (degree_ == 1) return x;
    const Memory slices = all_numbers(columns);
    return all_numbers(columns);
  }
  // The own positions of a sum, by way of one too.
  Memory scattered_sum(int64_t columns) {
    const Memory slices = all_floats(columns);
    return floats(columns);
  }

  Tensor plain_pixel_convolution(const Tensor& x, int64_t in, int64_t out, bool trains) {
    const bool asks = x.needs_gradient();
    return tape_.record(numbers(out), {x}, trains_, [=, this, x = x.memory](const Memory& dy) {
      defer(trains, x, dy);
      return std::vector{asks ? numbers(in) : nullptr};
    });
  }

  Tensor plain_side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers) {
    int64_t out = 0;
    bool trains = false;
    for (const SizedLayer& layer : layers) {
      out += layer.out;
      trains = trains || layer.trains;
    }
    const bool asks = x.needs_gradient();
    const Memory whole = gathered(x.memory, in);
    return tape_.record(all_numbers(out), {x}, trains_, [=, this, x = whole](const Memory& dy) {
      defer(trains, x, dy);
      if (!asks) return std::vector<Memory>{};
      Memory dx = all_floats(in);
      if (degree_ > 1) dx = scattered_sum(in);
      return std::vector{narrowed(dx, in)};
    });
  }

  Tensor dropped(const Tensor& x, int64_t in, const SizedLayer& layer) {
    if (layer.adapter->dropout == 0) return x;
    return tape_.record(masked(x.memory, in), {x}, false,
                        [this, in](const Memory& dy) { return std::vector{masked(dy, in)}; });
  }

  Tensor scaled(const Tensor& thin, int64_t columns) {
    return tape_.record(numbers(columns), {thin}, false,
                        [this, columns](const Memory&) { return std::vector{numbers(columns)}; });
  }

  Tensor adapted(const Tensor& x, int64_t in, const SizedLayer& layer, bool strided) {
    const Tensor thin = plain(dropped(x, in, layer), {in, layer.rank, layer.adapter_trains});
    return plain(scaled(thin, layer.rank), {layer.rank, layer.out, layer.adapter_trains, false, strided});
  }

  // In the place of the first.
  Tensor sum(const Tensor& base, const Tensor& beside) {
    return tape_.record(base.memory, {base, beside}, false,
                        [](const Memory& dy) { return std::vector{dy, dy}; });
  }

  Tensor adapters_side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers) {
    std::vector<Tensor> parts;
    int64_t out = 0;
    for (const SizedLayer& layer : layers) {
      out += layer.out;
      parts.push_back(layer.adapter != nullptr ? adapted(x, in, layer, true) : Tensor{numbers(layer.out)});
    }
    return tape_.record(numbers(out), parts, false,
                        [count = parts.size()](const Memory& dy) { return std::vector<Memory>(count, dy); });
  }

  const plan::Unit& unit_;
  const int64_t rows_, degree_, all_rows_, bytes_;
  const bool trains_;
  MemoryTape tape_;
  std::vector<Memory> deferred_;
  int64_t weight_peak_ = 0;
};

}  // namespace furrow::models
