#include "furrow/tensor/kernels/embedding.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/tensor/autograd_torch.h"
#include "furrow/tensor/half_torch.h"
#include "furrow/tensor/ops_torch.h"

namespace furrow::tensor {
namespace {

void check_ids(const at::Tensor& ids, int64_t vocabulary) {
  const std::span<const int64_t> all(ids.const_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()));
  const auto bad = std::ranges::find_if(all, [&](int64_t id) { return id < 0 || id >= vocabulary; });
  if (bad != all.end()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("token {} at position {} of sample {} of the microbatch is outside the vocabulary of {}: "
                    "prepare the data with the model's vocabulary",
                    *bad, (bad - all.begin()) % ids.size(1), (bad - all.begin()) / ids.size(1), vocabulary));
  }
}

// A token's position in its document picks its vector: [batch, time], each below the rows of the table.
void check_positions(std::span<const int64_t> positions, const at::Tensor& ids, const Param& table) {
  FURROW_CHECK(positions.size() == static_cast<size_t>(ids.numel()), "a position for every token");
  const int64_t rows = table.leaf.size(0);
  FURROW_CHECK(std::ranges::all_of(positions, [rows](int64_t p) { return p >= 0 && p < rows; }),
               "a position beyond the table");
}

void defer_tables(const at::Tensor& ids, const Param& tokens, const Param& positions,
                  const at::Tensor& gradient, const OpContext& context) {
  GradientSink* const sink = context.sink;
  const int threads = context.threads;
  const int64_t count = ids.numel(), time = ids.size(1), width = tokens.leaf.size(1);
  sink->defer(tokens.index, [=, vocabulary = tokens.leaf.size(0)](float* out) {
    const at::Tensor dy = widened(gradient, threads);
    kernels::embedding_backward(
        {count, width, vocabulary, ids.const_data_ptr<int64_t>(), dy.const_data_ptr<float>(), out}, threads);
  });
  if (!positions.defined()) return;
  if (!context.positions.empty()) {
    sink->defer(positions.index, [=, at = context.positions, rows = positions.leaf.size(0)](float* out) {
      const at::Tensor dy = widened(gradient, threads);
      kernels::embedding_backward({count, width, rows, at.data(), dy.const_data_ptr<float>(), out}, threads);
    });
    return;
  }
  sink->defer(positions.index, [=, size = positions.leaf.numel()](float* out) {
    const at::Tensor dy = widened(gradient, threads);
    kernels::position_backward(count, time, width, dy.const_data_ptr<float>(), out, threads);
    std::fill(out + time * width, out + size, 0.0f);  // positions beyond this context
  });
}

template <class T>
void look_up(const at::Tensor& ids, const Param& tokens, const Param& positions, const at::Tensor& y,
             const OpContext& context) {
  kernels::EmbeddingForward<T> args;
  args.count = ids.numel();
  args.columns = tokens.leaf.size(1);
  args.ids = ids.const_data_ptr<int64_t>();
  args.table = static_cast<const T*>(tokens.leaf.const_data_ptr());
  args.positions = positions.defined() ? static_cast<const T*>(positions.leaf.const_data_ptr()) : nullptr;
  args.period = ids.size(1);
  if (positions.defined() && !context.positions.empty()) args.position_ids = context.positions.data();
  args.out = static_cast<T*>(y.data_ptr());
  kernels::embedding_forward(args, context.threads);
}

}  // namespace

at::Tensor embedding(const at::Tensor& ids, const Param& tokens, const Param& positions, OpContext& context) {
  FURROW_CHECK(ids.dim() == 2 && ids.scalar_type() == at::kLong, "embedding reads int64 [batch, time]");
  FURROW_CHECK(!positions.defined() || positions.leaf.size(0) >= ids.size(1),
               "more positions than vectors for them");
  const at::Tensor dense = ids.contiguous();
  check_ids(dense, tokens.leaf.size(0));
  const int64_t width = tokens.leaf.size(1);
  at::Tensor y = at::empty({ids.size(0), ids.size(1), width}, tokens.leaf.options());
  if (positions.defined() && !context.positions.empty()) check_positions(context.positions, dense, positions);
  switch (tokens.leaf.scalar_type()) {
    case at::kFloat:
      look_up<float>(dense, tokens, positions, y, context);
      break;
    case at::kBFloat16:
      look_up<kernels::bf16>(dense, tokens, positions, y, context);
      break;
    default:
      look_up<kernels::f16>(dense, tokens, positions, y, context);
  }
  return with_backward(y, {tokens.leaf}, [dense, tokens, positions, context](const at::Tensor& dy) {
    if (context.sink != nullptr) defer_tables(dense, tokens, positions, dy, context);
    return std::vector<at::Tensor>{};
  });
}

}  // namespace furrow::tensor
