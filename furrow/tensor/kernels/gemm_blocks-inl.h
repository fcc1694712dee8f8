// The loops of a matrix product around the register block: what is packed when, and for how long.
#include "furrow/tensor/kernels/targets.h"
#if defined(FURROW_TENSOR_KERNELS_GEMM_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FURROW_TENSOR_KERNELS_GEMM_BLOCKS_INL_H_
#undef FURROW_TENSOR_KERNELS_GEMM_BLOCKS_INL_H_
#else
#define FURROW_TENSOR_KERNELS_GEMM_BLOCKS_INL_H_
#endif

#include <algorithm>

#include "furrow/tensor/kernels/blocks.h"
#include "furrow/tensor/kernels/gemm_pack-inl.h"
#include "furrow/tensor/kernels/parallel.h"
#include "furrow/tensor/kernels/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace furrow::tensor::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kMaxDepth = 256;   // k is cut into blocks of at most this: a panel of B is 32 KiB
constexpr int64_t kDepthGrain = 16;  // those blocks but the last are whole cache lines of a row
constexpr int64_t kKeptFloats =
    192 << 10;  // of the side that stays packed: 768 KiB, inside a second-level cache

// Register blocks of kMR rows, for which nothing is set up.  The Form of a product has
//   Registers   what a thread holds while it computes
//   kRows       of a register block and a panel of A
//   kGrain      packed rows of A are multiples of it
struct PlainForm {
  struct Registers {};
  static constexpr int64_t kRows = kMR, kGrain = 1;
};

// One thread's share of a product and its working memory.  A Product has
//   Form                       of its register blocks
//   m, n, depth, max_depth     sizes; depth is k in units of one packed 32-bit lane
//   pack_a, pack_b             as in gemm_pack-inl.h
//   rows_at_once()             that are packed where B is kept, whole panels
//   compute(registers, a, b, at, k, tile)  one register block of C from a panel of each
template <class Product>
struct Share {
  const Product& product;
  float* a;     // packed block of rows of A
  float* b;     // packed panels of a group of columns of B
  float* tile;  // kRows x kNR, and rows to a multiple of kLanes
  typename Product::Form::Registers registers = {};
};

// Where a register block lies in C.
struct Tile {
  int64_t i, rows, j, columns;
};

// Rows [i, i + rows) and columns [j, j + columns), one block of k; both are packed.
template <class Product>
void compute_block(Share<Product>& s, int64_t i, const RowPanels& rows, int64_t j, int64_t columns, Depth k) {
  for (int64_t panel = 0; panel < columns; panel += kNR) {
    const float* b = s.b + panel * k.size;
    for (int64_t p = 0; p < rows.parts; ++p) {
      const Tile at{i + rows.begin(p), rows.size(p), j + panel, std::min<int64_t>(kNR, columns - panel)};
      s.product.compute(s.registers, s.a + rows.begin(p) * row_room(k.size), b, at, k, s.tile);
    }
  }
}

// Rows [i0, i1) and columns [j0, j1) of C.  One side stays packed in a second-level cache: A where it is the
// smaller one and fits, else B, one group of columns after the other.  The other side is packed a panel or a
// few at a time, which stays in the first-level cache while it meets all that is kept.
template <class Product>
void compute_share(const Product& product, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  constexpr int64_t kRows = Product::Form::kRows, kGrain = Product::Form::kGrain;
  const Blocks depths(row_room(product.depth) / kDepthGrain, product.max_depth / kDepthGrain);
  const int64_t depth = depths.size(0) * kDepthGrain, m = i1 - i0, n = j1 - j0;
  const bool keep_a = m < n && m * depth <= kKeptFloats;
  const int64_t block = keep_a ? m : std::min(m, product.rows_at_once());
  const int64_t kept = std::max<int64_t>(kKeptFloats / depth / kNR * kNR, kNR);
  const int64_t group = keep_a ? kNR : std::min(kept, (n + kNR - 1) / kNR * kNR);
  ScratchScope scratch;
  Share<Product> s{product, scratch.floats((block + kGrain - 1) / kGrain * kGrain * depth + kPackSlack),
                   scratch.floats(group * depth),
                   scratch.floats((kRows + kLanes - 1) / kLanes * kLanes * kNR)};
  for (int64_t d = 0; d < depths.parts; ++d) {
    const int64_t from = depths.begin(d) * kDepthGrain;
    const Depth k{from, std::min(depths.size(d) * kDepthGrain, product.depth - from)};
    for (int64_t j = j0; j < j1; j += group) {
      const int64_t columns = std::min(group, j1 - j);
      product.pack_b(k, j, columns, s.b);
      for (int64_t i = i0; i < i1; i += block) {
        const RowPanels rows(std::min(block, i1 - i), kRows, product.m - i);
        if (!keep_a || j == j0) product.pack_a(i, rows, k, s.a);
        compute_block(s, i, rows, j, columns, k);
      }
    }
  }
}

// The larger side is shared out, rows evenly and columns in whole panels; every thread reads all of the
// other. REQUIRES: no size is 0.
template <class Product>
void share_out(const Product& product, int threads) {
  constexpr int64_t kWorthAThread = 1 << 19;  // products; less than the cost of waking one
  constexpr int64_t kRows = Product::Form::kRows, kGrain = Product::Form::kGrain;
  const int team = team_for(product.m * product.n * product.depth, kWorthAThread, threads);
  const int64_t m = product.m, n = product.n, columns = (n + kNR - 1) / kNR;
  if ((m + kRows - 1) / kRows >= columns) {
    parallel_for(team, (m + kGrain - 1) / kGrain, [&](int64_t begin, int64_t end) {
      compute_share(product, begin * kGrain, std::min(end * kGrain, m), 0, n);
    });
  } else {
    parallel_for(team, columns, [&](int64_t begin, int64_t end) {
      compute_share(product, 0, m, begin * kNR, std::min(end * kNR, n));
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace furrow::tensor::kernels
HWY_AFTER_NAMESPACE();

#endif
