// tensor/adapter.cc and axis_operations.cc on sizes.
#include <utility>

#include "furrow/models/sized_operations.h"

namespace furrow::models {
namespace {

using Memory = SizedOperations::Memory;
using Tensor = SizedOperations::Tensor;

}  // namespace

Tensor SizedOperations::linear_with_adapter(const Tensor& x, int64_t in, const SizedLayer& layer,
                                            KeptByActivation activation) {
  const bool columns = layer.cuts_outputs(), rows = layer.cuts_inputs(), wide = columns && narrow();
  const int64_t read = rows ? part(in) : in;
  const Tensor input = columns ? whole_input(x, in, layer.cut) : x;
  Product product{read, layer.out, layer.trains};
  product.wide_gradient = wide;
  product.wide_output = rows;
  product.bias = layer.bias;
  const Tensor z = sum(plain(input, product), adapted(input, read, layer, {false, wide, rows}));
  return activated(rows ? summed_parts(z, layer) : z, layer.out, activation);
}

// The gradient of what the ranks read is float32 until it has been summed.
Tensor SizedOperations::whole_input(const Tensor& x, int64_t in, SizedCut cut) {
  const bool gathers = cut == SizedCut::kPositionsToColumns;
  const Memory whole = gathers ? gathered(x.memory, in) : x.memory;
  return tape_.record(whole, {x}, false, [this, gathers, in](const Memory& dy) {
    const Memory sum = gathers ? scattered_sum(in) : dy;
    return std::vector{narrowed(sum, in)};
  });
}

Tensor SizedOperations::summed_parts(const Tensor& part, const SizedLayer& layer) {
  const bool scatters = layer.cut == SizedCut::kRowsToPositions;
  const int64_t out = layer.out;
  const Memory sum = scatters ? scattered_sum(out) : part.memory;
  return tape_.record(narrowed(sum, out), {part}, false, [this, scatters, out](const Memory& dy) {
    const Memory all = scatters ? gathered(dy, out) : dy;
    return std::vector{narrow() ? all_floats(out) : all};
  });
}

Tensor SizedOperations::dropped(const Tensor& x, int64_t in, const SizedLayer& layer, bool wide) {
  if (layer.adapter->dropout == 0) return x;
  if (!wide) {
    const Memory from = read(x, in);
    return tape_.record(all_masked(from, in), {x}, false,
                        [this, in](const Memory& dy) { return std::vector{all_masked(dy, in)}; });
  }
  const Tensor widened =
      tape_.record(all_floats(in), {x}, false, [](const Memory& dy) { return std::vector{dy}; });
  return tape_.record(all_floats(in), {widened}, false,
                      [this, in](const Memory&) { return std::vector{all_floats(in)}; });
}

Tensor SizedOperations::scaled(const Tensor& thin, int64_t columns) {
  return tape_.record(all_numbers(columns), {thin}, false,
                      [this, columns](const Memory&) { return std::vector{all_numbers(columns)}; });
}

Tensor SizedOperations::adapted(const Tensor& x, int64_t in, const SizedLayer& layer,
                                const AdapterTypes& form) {
  Product a{in, layer.rank, layer.a_trains};
  a.wide_gradient = form.wide_input;
  a.reads_wide = form.wide_input && layer.adapter->dropout > 0;
  Product b{layer.rank, layer.out, layer.b_trains};
  b.strided = form.strided;
  b.wide_output = form.wide_output;
  const Tensor kept = dropped(x, in, layer, form.wide_input);
  const Tensor thin = plain(kept, a);
  return plain(scaled(thin, layer.rank), b);
}

// Vectors of the adapter's first matrix, of the rows of all ranks with zeros in place of the others', times
// the second; or of a whole table, of the own positions.
Tensor SizedOperations::looked_up(const SizedLayer& table, int64_t columns, bool cut) {
  constexpr int64_t kIdBytes = 8, kAbsentBytes = 1;
  const int64_t rows = cut ? all_rows_ : rows_, rank = table.rank;
  const auto make = [this, rows](int64_t count) { return tape_.make(rows * count * bytes_); };
  const Memory ids = tape_.make(rows * (kIdBytes + (cut ? kAbsentBytes : 0)));
  Memory found = make(rank);
  const Memory own = cut ? make(rank) : found;
  found.reset();
  const Tensor thin = tape_.record(own, {}, trains_, [this, ids, trains = table.a_trains](const Memory& dy) {
    defer(trains, ids, dy);
    return std::vector<Memory>{};
  });
  const Tensor scaled = tape_.record(make(rank), {thin}, false,
                                     [make, rank](const Memory&) { return std::vector{make(rank)}; });
  return tape_.record(make(columns), {scaled}, trains_,
                      [this, make, rank, trains = table.b_trains, kept = scaled.memory](const Memory& dy) {
                        defer(trains, kept, dy);
                        return std::vector{make(rank)};
                      });
}

// In the place of the first.
Tensor SizedOperations::sum(const Tensor& base, const Tensor& beside) {
  return tape_.record(base.memory, {base, beside}, false,
                      [](const Memory& dy) { return std::vector{dy, dy}; });
}

Tensor SizedOperations::adapters_side_by_side(const Tensor& x, int64_t in,
                                              const std::vector<SizedLayer>& layers, bool wide) {
  std::vector<Tensor> parts;
  int64_t out = 0;
  for (const SizedLayer& layer : layers) {
    out += layer.out;
    parts.push_back(layer.adapter != nullptr ? adapted(x, in, layer, {true, wide, false})
                                             : Tensor{all_numbers(layer.out)});
  }
  return tape_.record(all_numbers(out), parts, false,
                      [count = parts.size()](const Memory& dy) { return std::vector<Memory>(count, dy); });
}

Tensor SizedOperations::convolution(const Tensor& x, int64_t in, const SizedLayer& layer, int64_t thin) {
  const Tensor base = plain_convolution(x, {in, layer.out, layer.weight, layer.trains});
  const Tensor kept = dropped(x, in, layer, false);
  const Tensor behind = plain_convolution(kept, {in, thin, layer.a, layer.a_trains});
  return sum(base, plain_convolution(scaled(behind, thin), {thin, layer.out, layer.b, layer.b_trains}));
}

// What drops has pixels side by side, and reads and gives copies where several channels are.
Tensor SizedOperations::image_dropped(const Tensor& x, int64_t in, bool copies, bool copies_gradient) {
  const Memory dense = copies ? numbers(in) : x.memory;
  return tape_.record(masked(dense, in), {x}, false, [this, in, copies_gradient](const Memory& dy) {
    const Memory pixels = copies_gradient ? numbers(in) : dy;
    return std::vector{masked(pixels, in)};
  });
}

Tensor SizedOperations::strided_convolution(const Tensor& x, int64_t in, const SizedLayer& layer,
                                            int64_t thin) {
  const bool planes = copies(x);
  const Tensor base = image_convolution(x, in, layer.out, layer.trains, planes);
  if (layer.adapter == nullptr) return base;
  const bool drops = layer.adapter->dropout > 0;
  const bool several = drops && unit_.parameters[static_cast<size_t>(layer.adapter->a)].shape[1] > 1;
  const Tensor kept = drops ? image_dropped(x, in, several && !planes, several) : x;
  const Tensor behind = image_convolution(kept, in, thin, layer.a_trains, drops ? several : planes);
  return sum(base, image_convolution(scaled(behind, thin), thin, layer.out, layer.b_trains));
}

}  // namespace furrow::models
