// The operations of tensor/ops_torch.h on sizes, for block_memory.cc.  Internal to models.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/models/memory_tape.h"
#include "furrow/models/unit_builder.h"

namespace furrow::models {

// What an activation keeps for backward: nothing else than its output (ReLU), or its slope (GELU).
enum class KeptByActivation : uint8_t { kNone, kOutput, kSlope };

// What a tensor axis cuts of a layer, as tensor::Cut.
enum class SizedCut : uint8_t { kNone, kColumns, kRows, kPositionsToColumns, kRowsToPositions };

// A parameter of one dim, whose gradient backward puts: it stays where it is wanted.
struct SizedVector {
  int64_t elements = 0;  // 0: there is none
  bool trains = false;
};

struct SizedNorm {
  SizedVector weight, bias;
};

// What a layer has of a unit's parameters.
struct SizedLayer {
  int64_t out = 0;      // of one rank
  int64_t weight = 0;   // elements
  bool trains = false;  // the weight; its gradient is formed later
  SizedVector bias = {};
  const plan::Adapter* adapter = nullptr;
  int64_t rank = 0;
  int64_t a = 0, b = 0;  // elements of its matrices
  bool a_trains = false, b_trains = false;
  SizedCut cut = SizedCut::kNone;  // over a tensor axis

  bool cuts_outputs() const { return cut == SizedCut::kColumns || cut == SizedCut::kPositionsToColumns; }
  bool cuts_inputs() const { return cut == SizedCut::kRows || cut == SizedCut::kRowsToPositions; }
};

// A convolution of images of so many elements.
struct SizedConvolution {
  int64_t in = 0, out = 0;
  int64_t weight = 0;  // elements
  bool trains = false;
  int64_t codes = 0;  // bytes that say where its gradient goes
};

// The operations of tensor/ops_torch.h over one sample, rows x columns numbers each.  Of 16 bits those that
// work on float32 copies make them here too; kernels' own scratch is not counted.  An operation that reads
// the block's input in another form than it comes in (image_borders.h) makes a copy.  Of one rank of a tensor
// axis that shares positions, `rows` are its own; products and attention work on those of all ranks, of its
// columns.  What a step holds longer than a call, operands of weights' gradients, stays until the end.
class SizedOperations {
 public:
  using Memory = MemoryTape::Memory;
  using Tensor = MemoryTape::Tensor;

  // `samples`: as MemoryTape's.
  SizedOperations(const plan::Unit& unit, int64_t rows, bool shares_positions, int64_t samples);

  MemoryTape& tape() { return tape_; }
  bool trains() const { return trains_; }
  // Float32 copies for the gradient of one convolution's weight, which counts as workspace.
  int64_t weight_peak() const { return weight_peak_; }
  const std::vector<Memory>& deferred() const { return deferred_; }
  void forget_deferred() { deferred_.clear(); }

  void copy_input(Memory input) { copied_ = std::move(input); }
  bool copies(const Tensor& x) const { return copied_ != nullptr && x.memory == copied_; }

  SizedLayer layer(std::string_view name, int64_t out, SizedCut cut) const;
  // "ln_1.": of ln_1.weight and ln_1.bias.
  SizedNorm norm_parameters(const std::string& prefix) const;

  // layer_norm with two statistics of a row, rms_norm with one.
  Tensor norm(const Tensor& x, int64_t columns, int64_t statistics, const SizedNorm& parameters);
  Tensor group_norm(const Tensor& x, int64_t columns, int64_t groups, const SizedNorm& parameters);
  Tensor linear(const Tensor& x, int64_t in, const SizedLayer& layer,
                KeptByActivation activation = KeptByActivation::kNone);
  // Layers over one input, results side by side.
  Tensor side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers);
  // In the place of z.  A kept output is no more memory; a slope is.
  Tensor activated(const Tensor& z, int64_t columns, KeptByActivation activation);
  Tensor attention(const Tensor& qkv, int64_t qkv_columns, int64_t heads, int64_t columns);
  Tensor swiglu(const Tensor& both, int64_t columns);
  // residual + dropout(x)
  Tensor add(const Tensor& residual, const Tensor& x, int64_t columns, bool drops);
  // x + dropout(out(activation(in(norm(x))))), or swiglu() of two layers `in`; `hidden`: what out reads.
  struct FeedForward {
    int64_t width = 0, hidden = 0, statistics = 0;  // those of a row's norm
    SizedNorm norm = {};
    std::vector<SizedLayer> in;
    SizedLayer out;
    bool drops = false;
  };
  Tensor feed_forward(const Tensor& x, const FeedForward& layers);
  Tensor dropout(const Tensor& x, int64_t columns);
  // tensor::biased_activation: behind a bias where there is one.
  Tensor biased_activation(const Tensor& x, int64_t columns, KeptByActivation activation,
                           const SizedVector& bias = {});
  // Recurrent layers; of a tanh cell [x_t, h_{t-1}].
  Tensor lstm(const Tensor& x, int64_t in, const SizedLayer& layer);
  Tensor recurrent_concatenation(const Tensor& x, int64_t in, const SizedLayer& layer);
  Tensor flattened(const Tensor& x, int64_t columns);  // a copy
  // Vectors of a table that a tensor axis cuts along its rows; `positions`, where not null: those of another,
  // which is whole, are added.
  Tensor cut_tables(int64_t columns, const SizedLayer& tokens, const SizedLayer* positions);

  Tensor plain_convolution(const Tensor& x, const SizedConvolution& c);  // conv2d
  // conv2d of an adapted layer, of images of so many elements; `thin`: those between the two matrices.
  Tensor convolution(const Tensor& x, int64_t in, const SizedLayer& layer, int64_t thin);
  Tensor pooled(const Tensor& x, int64_t in, int64_t out);  // 2x2 maxima and where they were
  // The same of images whose channels lie side by side, with an adapter or without.
  Tensor strided_convolution(const Tensor& x, int64_t in, const SizedLayer& layer, int64_t thin);
  Tensor batch_norm(const Tensor& x, int64_t columns, const SizedNorm& parameters, bool relu,
                    const Tensor& residual = {});
  // Some of its pixels, or means of them.
  Tensor resampled(const Tensor& x, int64_t in, int64_t out);
  Tensor max_pooled(const Tensor& x, int64_t in, int64_t out);

 private:
  Tensor feed_forward_at_once(const Tensor& x, const FeedForward& layers);
  // A product of two matrices, whose gradients may be of another type than the unit's.
  struct Product {
    int64_t in = 0, out = 0;
    bool trains = false;
    KeptByActivation activation = KeptByActivation::kNone;
    SizedCut cut = SizedCut::kNone;
    SizedVector bias = {};
    bool strided = false;        // its gradient is a part of another, which is copied
    bool reads_wide = false;     // float32, which is rounded
    bool wide_gradient = false;  // that of its input stays float32
    bool wide_output = false;
  };
  // How what an adapter reads and gives differs from what the unit's numbers are.
  struct AdapterTypes {
    bool strided = false, wide_input = false, wide_output = false;
  };

  bool narrow() const { return bytes_ < kFloatBytes; }
  // The operation is one of a graph: else it makes nothing that only backward reads.
  bool recorded(const Tensor& x) const { return trains_ || x.needs_gradient(); }
  int64_t part(int64_t columns) const { return (columns + degree_ - 1) / degree_; }  // of one rank
  Memory numbers(int64_t columns) { return tape_.make(rows_ * columns * bytes_); }
  Memory floats(int64_t columns) { return tape_.make(rows_ * columns * kFloatBytes); }
  Memory all_numbers(int64_t columns) { return tape_.make(all_rows_ * columns * bytes_); }
  Memory all_floats(int64_t columns) { return tape_.make(all_rows_ * columns * kFloatBytes); }
  Memory widened(const Memory& x, int64_t columns) { return narrow() ? floats(columns) : x; }
  Memory narrowed(const Memory& wide, int64_t columns) { return narrow() ? numbers(columns) : wide; }
  Memory masked(const Memory& x, int64_t columns);
  Memory all_masked(const Memory& x, int64_t columns);
  void defer(bool trains, const Memory& x, const Memory& dy);
  SizedVector vector(std::string_view end_of_name) const;
  // Their gradients; what is not wanted goes with what is returned.
  Memory put(const SizedVector& vector);
  std::vector<Memory> put(const SizedNorm& norm) { return {put(norm.weight), put(norm.bias)}; }
  // The same of a sum over so many rows of a sample; of 16 bits first those of blocks, which are returned
  // too.
  std::vector<Memory> put_sum(const SizedVector& vector, int64_t rows);
  // The sum of a recurrent layer's weight and its adapter, for as long as a call.
  Memory weight_with_adapter(const SizedLayer& layer);
  void defer_recurrent(const SizedLayer& layer, const Memory& both, const Memory& gates);
  Memory float_copy(int64_t elements);  // of a weight of 16 bits
  Memory read(const Tensor& x, int64_t columns) { return copies(x) ? numbers(columns) : x.memory; }

  // Over a tensor axis: the positions of all ranks, and the own ones of a sum, each by way of a buffer in the
  // order of ranks.
  Memory gathered(const Memory& x, int64_t columns);
  Memory scattered_sum(int64_t columns);

  Tensor plain(const Tensor& x, const Product& p);
  Memory input_gradient(const Product& p);
  Tensor summed(const Tensor& x, int64_t in, const SizedLayer& layer, KeptByActivation activation);
  Tensor plain_side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers, SizedCut cut,
                            bool wide_gradient);
  Tensor image_convolution(const Tensor& x, int64_t in, int64_t out, bool trains, bool copies = false);
  Tensor image_dropped(const Tensor& x, int64_t in, bool copies, bool copies_gradient);
  Tensor looked_up(const SizedLayer& table, int64_t columns, bool cut);

  // tensor/adapter.cc and axis_operations.cc.
  Tensor linear_with_adapter(const Tensor& x, int64_t in, const SizedLayer& layer,
                             KeptByActivation activation);
  Tensor whole_input(const Tensor& x, int64_t in, SizedCut cut);
  Tensor summed_parts(const Tensor& part, const SizedLayer& layer);
  Tensor adapted(const Tensor& x, int64_t in, const SizedLayer& layer, const AdapterTypes& form);
  Tensor dropped(const Tensor& x, int64_t in, const SizedLayer& layer, bool wide);
  Tensor scaled(const Tensor& thin, int64_t columns);
  Tensor sum(const Tensor& base, const Tensor& beside);
  Tensor adapters_side_by_side(const Tensor& x, int64_t in, const std::vector<SizedLayer>& layers, bool wide);

  const plan::Unit& unit_;
  const int64_t rows_, degree_, all_rows_, bytes_;
  const bool trains_;
  MemoryTape tape_;
  std::vector<Memory> deferred_;
  Memory copied_;  // null: none is
  int64_t weight_peak_ = 0;
};

}  // namespace furrow::models
