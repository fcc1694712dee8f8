// The operations that mpi_ranks runs on both backends, with their terms.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "furrow/base/half.h"
#include "furrow/comm/group.h"

namespace furrow::comm {

using Bytes = std::vector<std::byte>;

inline constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16,
                                   DType::kI64, DType::kI32, DType::kU8};
// Either side of what fits into the first round, and (as f32 and f64) of what is staged at once.
inline constexpr int64_t kSizes[] = {0, 1, 3, 7, 100, 1000, 10007, 2500001};
inline constexpr int64_t kLarge = 1'000'000;

inline uint64_t hash(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

struct Case {
  CollectiveKind kind = CollectiveKind::kAllReduce;
  int64_t size = 0;
  DType dtype = DType::kF32;
  Reduction reduction = Reduction::kSum;
  bool in_place = false, uneven = false;
  bool whole_numbers = false;  // floating terms whose sums are exact in any order
  uint64_t seed = 0;

  std::string text() const {
    return fmt::format("{} of {} {} ({}){}{}", to_string(kind), size, to_string(dtype), to_string(reduction),
                       in_place ? ", in place" : "", uneven ? ", uneven" : "");
  }
};

// Terms whose sum depends on their order; products stay near one; minima meet NaNs.
inline double make_term(const Case& c, uint64_t bits) {
  if (c.whole_numbers) return static_cast<double>(bits % 5) - 2;
  const double unit = static_cast<double>(bits % 100003) / 100003 - 0.5;
  if (c.reduction == Reduction::kProd) return 1 + unit / 4;
  const bool compares = c.reduction == Reduction::kMin || c.reduction == Reduction::kMax;
  if (compares && bits % 17 == 0) return std::numeric_limits<double>::quiet_NaN();
  return std::ldexp(unit, static_cast<int>(bits >> 40) % 12);
}

template <class T>
inline void put(Bytes& bytes, int64_t i, T value) {
  std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
}

inline Bytes make_terms(const Case& c, int64_t elements, uint64_t seed) {
  Bytes bytes(static_cast<size_t>(elements) * dtype_size(c.dtype));
  for (int64_t i = 0; i < elements; ++i) {
    const uint64_t bits = hash(seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(i));
    const double term = make_term(c, bits);
    switch (c.dtype) {
      case DType::kF64:
        put(bytes, i, term);
        break;
      case DType::kF32:
        put(bytes, i, static_cast<float>(term));
        break;
      case DType::kF16:
        put(bytes, i, float_to_f16(static_cast<float>(term)));
        break;
      case DType::kBF16:
        put(bytes, i, float_to_bf16(static_cast<float>(term)));
        break;
      case DType::kI64:
        put(bytes, i, static_cast<int64_t>(bits));
        break;
      case DType::kI32:
        put(bytes, i, static_cast<int32_t>(bits));
        break;
      default:
        put(bytes, i, static_cast<uint8_t>(bits));
    }
  }
  return bytes;
}

// Slices that add up to `total`; the first is empty.
inline std::vector<int64_t> uneven_counts(int64_t total, int n, uint64_t seed) {
  std::vector<int64_t> counts(static_cast<size_t>(n), 0);
  for (int r = 1; r < n; ++r) {
    const int64_t rest = total - std::accumulate(counts.begin(), counts.end(), int64_t{0});
    counts[static_cast<size_t>(r)] =
        r + 1 == n
            ? rest
            : static_cast<int64_t>(hash(seed + static_cast<uint64_t>(r)) % static_cast<uint64_t>(rest + 1));
  }
  if (n == 1) counts[0] = total;
  return counts;
}

inline int64_t sum(const std::vector<int64_t>& x) { return std::accumulate(x.begin(), x.end(), int64_t{0}); }

// A case's buffers, made anew for each backend.
class Trial {
 public:
  Trial(const Case& c, const Group& group) : c_(c), n_(group.size()), rank_(group.rank()) {
    std::vector<int64_t> counts(static_cast<size_t>(n_), c.size);
    if (c.uneven) counts = uneven_counts(c.size, n_, c.seed);
    call_.kind = c.kind;
    call_.dtype = c.dtype;
    call_.reduction = c.reduction;
    call_.label = "case";
    int64_t in = c.size, out = c.size;
    set_sizes(counts, in, out);
    place(make_terms(c, in, c.seed * 64 + static_cast<uint64_t>(rank_)), counts, out);
  }

  // What lies in the buffers afterwards, `in` included.
  Bytes run(Group group, bool asynchronous) {
    if (asynchronous) {
      group.start(call_).wait();
    } else {
      group.run(call_);
    }
    Bytes all = in_;
    all.insert(all.end(), out_.begin(), out_.end());
    return all;
  }

 private:
  void set_sizes(const std::vector<int64_t>& counts, int64_t& in, int64_t& out) {
    const auto self = static_cast<size_t>(rank_);
    const bool sliced = c_.kind == CollectiveKind::kReduceScatter || c_.kind == CollectiveKind::kAllGather;
    if (sliced && c_.uneven) call_.counts = counts;
    if (c_.kind == CollectiveKind::kReduceScatter) in = sum(counts), out = counts[self];
    if (c_.kind == CollectiveKind::kAllGather) in = counts[self], out = sum(counts);
    if (c_.kind == CollectiveKind::kBroadcast || c_.kind == CollectiveKind::kReduce) {
      call_.root_or_peer = static_cast<int>(c_.seed % static_cast<uint64_t>(n_));
      const bool root = call_.root_or_peer == rank_;
      if (c_.kind == CollectiveKind::kBroadcast && !root) in = 0;
      if (c_.kind == CollectiveKind::kReduce && !root) out = 0;
    }
    if (c_.kind == CollectiveKind::kAllToAll) {
      in = out = 0;
      for (int r = 0; r < n_; ++r) {
        const auto to = uneven_counts(c_.size, n_, c_.seed + static_cast<uint64_t>(rank_));
        const auto from = uneven_counts(c_.size, n_, c_.seed + static_cast<uint64_t>(r));
        call_.send_counts.push_back(c_.uneven ? to[static_cast<size_t>(r)] : c_.size);
        call_.recv_counts.push_back(c_.uneven ? from[self] : c_.size);
      }
      in = sum(call_.send_counts), out = sum(call_.recv_counts);
      if (!c_.uneven) call_.send_counts = call_.recv_counts = {};
    }
  }

  void place(Bytes terms, const std::vector<int64_t>& counts, int64_t out) {
    const size_t element = dtype_size(c_.dtype), out_bytes = static_cast<size_t>(out) * element;
    const size_t own =
        static_cast<size_t>(std::accumulate(counts.begin(), counts.begin() + rank_, int64_t{0})) * element;
    if (!c_.in_place) {
      in_ = std::move(terms);
      out_.assign(out_bytes, std::byte{0x5a});
      call_.in = in_;
      call_.out = out_;
      return;
    }
    out_ = terms;
    if (c_.kind == CollectiveKind::kReduceScatter) {
      call_.in = out_;
      call_.out = std::span(out_).subspan(own, out_bytes);
    } else if (c_.kind == CollectiveKind::kAllGather) {
      out_.assign(out_bytes, std::byte{0x5a});
      std::copy(terms.begin(), terms.end(), out_.begin() + static_cast<std::ptrdiff_t>(own));
      call_.in = std::span(out_).subspan(own, terms.size());
      call_.out = out_;
    } else {
      out_.resize(std::max(out_bytes, terms.size()));
      call_.in = std::span(out_).first(terms.size());
      call_.out = std::span(out_).first(out_bytes);
    }
  }

  const Case& c_;
  const int n_, rank_;
  Bytes in_, out_;
  Collective call_;
};

inline std::vector<Case> make_cases(int n, bool whole_numbers) {
  std::vector<Case> cases;
  uint64_t seed = 0;
  for (int k = 0; k < kCollectiveKinds; ++k) {
    const auto kind = static_cast<CollectiveKind>(k);
    if (kind == CollectiveKind::kSend || kind == CollectiveKind::kRecv || kind == CollectiveKind::kBarrier)
      continue;
    const bool reduces = k < 2 || kind == CollectiveKind::kReduce;
    for (const DType dtype : kTypes) {
      for (int r = 0; r < (reduces ? kReductions : 1); ++r) {
        for (const int64_t size : kSizes) {
          if (size > kLarge && ((dtype != DType::kF32 && dtype != DType::kI32) || r > 0)) continue;
          const uint64_t bits = hash(++seed);
          const bool in_place = bits % 2 == 0 && kind != CollectiveKind::kAllToAll;
          const bool slices = kind != CollectiveKind::kAllReduce && kind != CollectiveKind::kBroadcast;
          cases.push_back({kind, slices && size > kLarge ? size / n : size, dtype, static_cast<Reduction>(r),
                           in_place, bits % 3 == 0, whole_numbers, seed});
        }
      }
    }
  }
  return cases;
}

}  // namespace furrow::comm
