// Layers with low-rank adapters.  Linear ones, y = activation(x W^T + b + dropout(x) A^T (scale B)^T), and
// convolutions and tables in the same way: what is there, without its activation, plus two thin ones.
// Recurrent layers have no room for a product between their steps: they read W + scale B A.
#include <ATen/ATen.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/activation_torch.h"
#include "furrow/tensor/adapter_torch.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/axis_operations_torch.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/embedding_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/kernels/gemm.h"
#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor {
namespace {

constexpr int64_t kWidenedRows = 64;  // models/adapter_costs.h counts their bytes

Param without_adapter(const Param& weight) { return {weight.leaf, weight.index}; }

// What a reads under dropout: x is whole, or over an axis the rank's columns of it.
WholeInput dropped(const WholeInput& input, const Adapter& adapter, OpContext& context) {
  if (!context.training || adapter.dropout == 0) return input;
  const at::Tensor x = widened(input, context);
  if (adapter.columns > 0)
    return {dropout_of_columns(x, adapter.columns, adapter.dropout, adapter.stream, context), {}};
  OpContext whole = context;
  whole.axis = nullptr;
  return {dropout(x, adapter.dropout, adapter.stream, whole), {}};
}

// The thin product is scaled: it has the fewest elements.
at::Tensor adapted(const WholeInput& input, const Adapter& adapter, OpContext& context,
                   bool wide_output = false) {
  const WholeInput kept = dropped(input, adapter, context);
  const at::Tensor thin = linear(kept.x, {.weight = adapter.a, .read = kept.read}, context);
  return linear(thin * adapter.scale, {.weight = adapter.b, .wide_output = wide_output}, context);
}

// In the place of z, which nobody else holds.
at::Tensor activated(const at::Tensor& z, Activation activation, OpContext& context) {
  if (activation == Activation::kNone) return z;
  if (composed(z))
    return activation == Activation::kRelu
               ? at::relu(z)
               : at::gelu(z, activation == Activation::kGeluTanh ? "tanh" : "none");
  const int threads = context.threads;
  const at::Tensor wide = widened(z.variable_data(), threads);
  const at::Tensor slope = activate(wide, wide, activation, needs_backward({z}), threads);
  const at::Tensor y = narrowed(wide, z.scalar_type(), threads);
  const at::Tensor gate = slope.defined() ? narrowed(slope, z.scalar_type(), threads) : y.detach();
  return with_backward(y, {z}, [activation, gate, threads](const at::Tensor& dy) {
    return std::vector{activation_gradient(activation, gate, dy, nullptr, threads)};
  });
}

// In the place of the first, which nobody else holds: autograd need not know.
at::Tensor sum(const at::Tensor& base, const at::Tensor& beside,
               at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  return with_backward(
      base.variable_data().add_(beside.detach()), {base, beside},
      [](const at::Tensor& dy) { return std::vector{dy, dy}; }, format);
}

// 2x2 maxima, stride 2, floor.
at::Tensor pooled(const at::Tensor& x) {
  const at::Tensor in = x.detach();
  at::Tensor y, places;
  std::tie(y, places) = at::max_pool2d_with_indices(in, {2, 2}, {2, 2});
  return with_backward(y, {x}, [in, places](const at::Tensor& dy) {
    return std::vector{at::max_pool2d_with_indices_backward(dy, in, {2, 2}, {2, 2}, {0, 0}, {1, 1},
                                                            /*ceil_mode=*/false, places)};
  });
}

// Columns own.rows of a [rank, rows], side by side, zeros where there is none: [batch, time, rank].
at::Tensor columns(const OwnRows& own, const Param& a, const OpContext& context) {
  const int64_t rank = a.leaf.size(0), rows = a.leaf.size(1);
  const auto present = [absent = own.absent](const at::Tensor& x) {
    return absent.defined() ? x.masked_fill(absent, 0) : x;
  };
  const at::Tensor y = a.leaf.detach().t().index_select(0, own.rows.view({-1}));
  return with_backward(present(y.view({own.rows.size(0), own.rows.size(1), rank})), {a.leaf},
                       [=, sink = context.sink, threads = context.threads](const at::Tensor& dy) {
                         if (sink == nullptr) return std::vector<at::Tensor>{};
                         sink->defer(a.index, [=](float* out) {
                           const at::Tensor table = at::embedding_dense_backward(
                               widened(present(dy), threads), own.rows, rows, -1, false);
                           over(out, {rank, rows}, dy.device()).copy_(table.t());
                         });
                         return std::vector<at::Tensor>{};
                       });
}

at::Tensor looked_up(const OwnRows& own, const Adapter& adapter, OpContext& context) {
  const at::Tensor thin = columns(own, adapter.a, context);
  return linear(thin * adapter.scale, adapter.b, {}, Activation::kNone, context);
}

OwnRows all_rows(const at::Tensor& ids, const Param& table) {
  return {ids.contiguous().to(table.leaf.device()), {}};
}

Cut cut_of(Cut cut, const OpContext& context) { return shared(context) ? cut : Cut::kNone; }

}  // namespace

at::Tensor linear_with_adapter(const at::Tensor& x, const LinearLayer& layer, OpContext& context) {
  const Cut cut = cut_of(layer.cut, context);
  const bool columns = cut == Cut::kColumns || cut == Cut::kPositionsToColumns;
  const bool rows = cut == Cut::kRows || cut == Cut::kRowsToPositions;
  const WholeInput input = columns ? whole_input(x, cut, context) : WholeInput{x, {}};
  LinearLayer plain{.weight = without_adapter(layer.weight), .wide_output = rows, .read = input.read};
  if (!rows) plain.bias = layer.bias;
  const at::Tensor part =
      sum(linear(input.x, plain, context), adapted(input, *layer.weight.adapter, context, rows));
  return activated(rows ? summed_parts(part, layer, context) : part, layer.activation, context);
}

at::Tensor side_by_side_with_adapters(const at::Tensor& x, const SideBySideLayers& layers,
                                      OpContext& context) {
  const WholeInput input =
      cut_of(layers.cut, context) == Cut::kNone ? WholeInput{x, {}} : whole_input(x, layers.cut, context);
  std::vector<Param> plain;
  std::vector<at::Tensor> parts;
  std::vector<int64_t> sizes = input.x.sizes().vec();
  for (const Param& weight : layers.weights) {
    plain.push_back(without_adapter(weight));
    sizes.back() = weight.leaf.size(0);
    parts.push_back(weight.adapter ? adapted(input, *weight.adapter, context)
                                   : at::zeros(sizes, weight.leaf.options()));
  }
  const at::Tensor beside = at::cat(parts, -1);
  parts.clear();
  return sum(linear_side_by_side(input.x, {plain, layers.biases, Cut::kNone, input.read}, context), beside);
}

at::Tensor conv2d_with_adapter(const at::Tensor& x, const Param& weight, const Param& bias,
                               const Convolution& convolution, OpContext& context) {
  const Adapter& adapter = *weight.adapter;
  const Convolution plain{.padding = convolution.padding};
  const at::Tensor base = conv2d(x, without_adapter(weight), bias, plain, context);
  const at::Tensor kept = dropout(x, adapter.dropout, adapter.stream, context);
  const at::Tensor thin = conv2d(kept, adapter.a, {}, plain, context);
  const at::Tensor y = sum(base, conv2d(thin * adapter.scale, adapter.b, {}, {}, context));
  const at::Tensor let_through =
      activated(y, convolution.relu ? Activation::kRelu : Activation::kNone, context);
  return convolution.pool ? pooled(let_through) : let_through;
}

at::Tensor strided_conv2d_with_adapter(const at::Tensor& x, const Param& weight,
                                       const StridedConvolution& convolution, OpContext& context) {
  const Adapter& adapter = *weight.adapter;
  const at::Tensor base = strided_conv2d(x, without_adapter(weight), convolution, context);
  const at::Tensor kept = dropout(x, adapter.dropout, adapter.stream, context);
  const at::Tensor thin = strided_conv2d(kept, adapter.a, convolution, context);
  const at::Tensor wide = strided_conv2d(thin * adapter.scale, adapter.b, {}, context);
  return sum(base, wide, at::MemoryFormat::ChannelsLast);
}

at::Tensor embedding_with_adapters(const at::Tensor& ids, const Param& tokens, const Param& positions,
                                   OpContext& context) {
  at::Tensor y = embedding(ids, without_adapter(tokens), without_adapter(positions), context);
  if (tokens.adapter) y = sum(y, looked_up(all_rows(ids, tokens), *tokens.adapter, context));
  if (positions.adapter)
    y = sum(y, looked_up(all_rows(position_ids(ids, context), positions), *positions.adapter, context));
  return y;
}

// The adapter of the positions works on the rank's part of them.
at::Tensor embedding_cut_with_adapters(const at::Tensor& ids, const CutTables& tables, OpContext& context) {
  const Param &tokens = tables.tokens, &positions = tables.positions;
  CutTables plain{without_adapter(tokens), without_adapter(positions), tables.vocabulary};
  const int rank = context.axis->rank();
  if (tokens.adapter) {
    const Param& a = tokens.adapter->a;
    const OwnRows own = own_rows(ids.contiguous(), a.leaf.size(1), rank, a.leaf.device());
    plain.beside = looked_up(own, *tokens.adapter, context);
  }
  const at::Tensor y = embedding_cut(ids, plain, context);
  if (!positions.adapter) return y;
  const at::Tensor here = position_ids(ids, context).narrow(1, rank * y.size(1), y.size(1));
  return sum(y, looked_up(all_rows(here, positions), *positions.adapter, context));
}

// A block of rows at a time: only that is of float32 where the sum is of 16 bits.
at::Tensor weight_with_adapter(const Param& weight, at::ScalarType type, int threads) {
  const Adapter& adapter = *weight.adapter;
  const at::Tensor a = widened(adapter.a.leaf.detach(), threads);
  const at::Tensor b = widened(adapter.b.leaf.detach(), threads) * adapter.scale;
  at::Tensor out = weight.leaf.detach().to(type, /*non_blocking=*/false, /*copy=*/true);
  const int64_t rows = out.size(0), in = out.size(1), rank = a.size(0);
  const int64_t step = type == at::kFloat ? rows : kWidenedRows;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    at::Tensor place = out.narrow(0, first, count);
    const at::Tensor wide = widened(place, threads);
    kernels::gemm({.m = count,
                   .n = in,
                   .k = rank,
                   .a = {b.const_data_ptr<float>() + first * rank, rank, 1},
                   .b = {a.const_data_ptr<float>(), in, 1},
                   .c = wide.data_ptr<float>(),
                   .ldc = in,
                   .accumulate = true},
                  threads);
    if (type != at::kFloat) place.copy_(wide);
  }
  return out;
}

void defer_adapter(const Adapter& adapter, const at::Tensor& x, const at::Tensor& dy, GradientSink& sink,
                   int threads) {
  const auto compute = [=](std::span<float* const> out) {
    const at::Tensor a = widened(adapter.a.leaf.detach(), threads);
    const at::Tensor b = widened(adapter.b.leaf.detach(), threads) * adapter.scale;
    const int64_t rank = a.size(0), in = a.size(1), outs = b.size(0), rows = x.numel() / in;
    const auto thin_product = [&](const at::Tensor& wide, int64_t width, const kernels::MatrixView& thin) {
      const at::Tensor c = at::empty({wide.size(0), rank}, wide.options());
      kernels::gemm({.m = wide.size(0),
                     .n = rank,
                     .k = width,
                     .a = {wide.const_data_ptr<float>(), width, 1},
                     .b = thin,
                     .c = c.data_ptr<float>(),
                     .ldc = rank},
                    threads);
      return c;
    };
    // c [m, n] (+)= left [rows, m]^T right [rows, n].
    const auto over_rows = [&](const at::Tensor& left, const at::Tensor& right, float* c, bool accumulate) {
      kernels::gemm({.m = left.size(1),
                     .n = right.size(1),
                     .k = left.size(0),
                     .a = {left.const_data_ptr<float>(), 1, left.size(1)},
                     .b = {right.const_data_ptr<float>(), right.size(1), 1},
                     .c = c,
                     .ldc = right.size(1),
                     .accumulate = accumulate},
                    threads);
    };
    // Rows of 16 bits are read as float32, so many at a time.
    const int64_t block = x.scalar_type() != at::kFloat ? kWidenedRows : rows;
    const at::Tensor flat_x = x.reshape({rows, in}), flat_dy = dy.reshape({rows, outs});
    for (int64_t row = 0; row < rows; row += block) {
      const int64_t count = std::min(block, rows - row);
      const at::Tensor wide_x = widened(flat_x.narrow(0, row, count), threads);
      const at::Tensor wide_dy = widened(flat_dy.narrow(0, row, count), threads);
      const at::Tensor behind_b = thin_product(wide_dy, outs, {b.const_data_ptr<float>(), rank, 1});
      over_rows(behind_b, wide_x, out[0], row > 0);
      const at::Tensor behind_a =
          thin_product(wide_x, in, {a.const_data_ptr<float>(), 1, in}) * adapter.scale;
      over_rows(wide_dy, behind_a, out[1], row > 0);
    }
  };
  sink.defer({adapter.a.index, adapter.b.index}, compute);
}

}  // namespace furrow::tensor
