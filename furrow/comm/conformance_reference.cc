#include "furrow/comm/conformance_reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "furrow/base/error.h"
#include "furrow/base/half.h"

namespace furrow::comm::reference {
namespace {

bool is_float(DType d) {
  return d == DType::kF64 || d == DType::kF32 || d == DType::kF16 || d == DType::kBF16;
}

template <class T>
T load(const std::byte* p) {
  T x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
template <class T>
void store(T x, std::byte* p) {
  std::memcpy(p, &x, sizeof(x));
}

template <class T>
T apply(Reduction reduction, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (reduction == Reduction::kMin || reduction == Reduction::kMax) {
      if (std::isnan(a)) return a;
      if (std::isnan(b)) return b;
    }
  }
  using U = std::conditional_t<std::is_integral_v<T>, uint64_t, T>;
  switch (reduction) {
    case Reduction::kMin:
      return a < b ? a : b;
    case Reduction::kMax:
      return b < a ? a : b;
    case Reduction::kProd:
      return static_cast<T>(static_cast<U>(a) * static_cast<U>(b));
    default:
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  }
}

// fn gets the terms in the type that they are added in, and gives one.
template <class Fn>
void on_elements(DType dtype, const std::byte* a, const std::byte* b, std::byte* out, const Fn& fn) {
  switch (dtype) {
    case DType::kF64:
      return store(fn(load<double>(a), load<double>(b)), out);
    case DType::kF32:
      return store(fn(load<float>(a), load<float>(b)), out);
    case DType::kF16:
      return store(float_to_f16(fn(f16_to_float(load<uint16_t>(a)), f16_to_float(load<uint16_t>(b)))), out);
    case DType::kBF16:
      return store(float_to_bf16(fn(bf16_to_float(load<uint16_t>(a)), bf16_to_float(load<uint16_t>(b)))),
                   out);
    case DType::kI64:
      return store(fn(load<int64_t>(a), load<int64_t>(b)), out);
    case DType::kI32:
      return store(fn(load<int32_t>(a), load<int32_t>(b)), out);
    default:
      return store(fn(load<uint8_t>(a), load<uint8_t>(b)), out);
  }
}

using Element = std::array<std::byte, 8>;

struct Terms {
  const Problem& p;
  size_t offset;  // of the element, in bytes

  Element leaf(int rank) const {
    Element e{};
    std::memcpy(e.data(), p.in[static_cast<size_t>(rank)].data() + offset, dtype_size(p.dtype));
    return e;
  }
  Element add(const Element& a, const Element& b) const {
    Element sum{};
    on_elements(p.dtype, a.data(), b.data(), sum.data(),
                [&](auto x, auto y) { return apply(p.reduction, x, y); });
    return sum;
  }
  template <class Leaf>
  Element tree(int b, int e, const Leaf& leaf) const {
    if (e - b == 1) return leaf(b);
    int half = 1;
    while (2 * half < e - b) half *= 2;
    return add(tree(b, b + half, leaf), tree(b + half, e, leaf));
  }
  // From the owner's successor around to the owner.
  template <class Leaf>
  Element ring(int owner, int n, const Leaf& leaf) const {
    Element sum = leaf((owner + 1) % n);
    for (int i = 2; i <= n; ++i) sum = add(sum, leaf((owner + i) % n));
    return sum;
  }
  Element finish(const Element& sum) const {
    if (p.reduction != Reduction::kAvg || p.in.size() < 2) return sum;
    Element mean{};
    const auto n = static_cast<int>(p.in.size());
    on_elements(p.dtype, sum.data(), sum.data(), mean.data(), [&](auto x, auto) {
      using T = decltype(x);
      if constexpr (std::is_floating_point_v<T>) {
        return x * (T{1} / static_cast<T>(n));
      } else {
        return static_cast<T>(static_cast<int64_t>(x) / n);
      }
    });
    return mean;
  }
};

// Shares of `bytes`, cut where a line of 64 bytes begins: which one holds byte `offset`, and where it begins
// and ends.
struct Share {
  int index;
  size_t begin, end;
};
Share share_of(size_t bytes, int n, size_t offset) {
  const size_t each = ((bytes + static_cast<size_t>(n) - 1) / static_cast<size_t>(n) + 63) / 64 * 64;
  const size_t index = offset / each;
  return {static_cast<int>(index), index * each, std::min(bytes, (index + 1) * each)};
}

int owner_of(const Problem& p, size_t offset) {
  const auto n = static_cast<int>(p.in.size());
  if (p.kind == CollectiveKind::kAllReduce) return share_of(p.in[0].size(), n, offset).index;
  auto element = static_cast<int64_t>(offset / dtype_size(p.dtype));
  int owner = 0;
  while (element >= p.counts[static_cast<size_t>(owner)]) element -= p.counts[static_cast<size_t>(owner++)];
  return owner;
}

Element by_hosts(const Terms& terms, bool ring) {
  const Problem& p = terms.p;
  std::vector<std::vector<int>> members;
  for (size_t r = 0; r < p.host.size(); ++r) {
    members.resize(std::max(members.size(), static_cast<size_t>(p.host[r]) + 1));
    members[static_cast<size_t>(p.host[r])].push_back(static_cast<int>(r));
  }
  const auto inside = static_cast<int>(members[0].size()), hosts = static_cast<int>(members.size());
  const auto host_sum = [&](int h) {
    const auto member = [&](int i) {
      return terms.leaf(members[static_cast<size_t>(h)][static_cast<size_t>(i)]);
    };
    return terms.tree(0, inside, member);
  };
  if (!ring) return terms.tree(0, hosts, host_sum);
  if (p.kind == CollectiveKind::kReduceScatter)
    return terms.ring(p.host[static_cast<size_t>(owner_of(p, terms.offset))], hosts, host_sum);
  const Share local = share_of(p.in[0].size(), inside, terms.offset);
  return terms.ring(share_of(local.end - local.begin, hosts, terms.offset - local.begin).index, hosts,
                    host_sum);
}

// At as many places as the largest power of two among the ranks: at the first ones, two neighbours each.
struct Places {
  explicit Places(int ranks) : count(1) {
    while (2 * count <= ranks) count *= 2;
    pairs = ranks - count;
  }
  int count, pairs;
};

Element by_pairs(const Terms& terms) {
  const Places places(static_cast<int>(terms.p.in.size()));
  return terms.tree(0, places.count, [&](int place) {
    if (place >= places.pairs) return terms.leaf(place + places.pairs);
    return terms.add(terms.leaf(2 * place), terms.leaf(2 * place + 1));
  });
}

// A sum written out: the canonical tree of terms b to e.
template <class Leaf>
std::string written(int b, int e, const Leaf& leaf) {
  if (e - b == 1) return leaf(b);
  int half = 1;
  while (2 * half < e - b) half *= 2;
  return fmt::format("({}+{})", written(b, b + half, leaf), written(b + half, e, leaf));
}

bool pairs_are_the_tree(int ranks) {
  const Places places(ranks);
  const auto term = [](int rank) { return std::to_string(rank); };
  const auto place = [&](int i) {
    return i < places.pairs ? written(2 * i, 2 * i + 2, term) : term(i + places.pairs);
  };
  return written(0, places.count, place) == written(0, ranks, term);
}

Bytes total(const Problem& p) {
  Bytes sum(p.in[0].size());
  const auto n = static_cast<int>(p.in.size());
  for (size_t offset = 0; offset < sum.size(); offset += dtype_size(p.dtype)) {
    const Terms terms{p, offset};
    const auto leaf = [&](int r) { return terms.leaf(r); };
    Element e{};
    if (p.order == Order::kTree) e = terms.tree(0, n, leaf);
    if (p.order == Order::kRing) e = n == 1 ? leaf(0) : terms.ring(owner_of(p, offset), n, leaf);
    if (p.order == Order::kPairs) e = by_pairs(terms);
    if (p.order == Order::kHosts || p.order == Order::kHostsRing)
      e = by_hosts(terms, p.order == Order::kHostsRing);
    e = terms.finish(e);
    std::memcpy(sum.data() + offset, e.data(), dtype_size(p.dtype));
  }
  return sum;
}

Bytes slice(const Bytes& all, const std::vector<int64_t>& counts, size_t r, size_t element) {
  size_t begin = 0;
  for (size_t i = 0; i < r; ++i) begin += static_cast<size_t>(counts[i]) * element;
  const auto first = all.begin() + static_cast<std::ptrdiff_t>(begin);
  return {first, first + counts[r] * static_cast<std::ptrdiff_t>(element)};
}

Bytes joined(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

Bytes exchanged(const Problem& p, size_t to) {
  std::vector<Bytes> parts;
  for (size_t from = 0; from < p.in.size(); ++from) {
    parts.push_back(slice(p.in[from], p.matrix[from], to, dtype_size(p.dtype)));
  }
  return joined(parts);
}

template <class T>
T random_value(uint64_t bits) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(bits);
  const double fraction = static_cast<double>(bits >> 12) * 0x1p-52 - 0.5;
  return static_cast<T>(std::ldexp(fraction + (fraction < 0 ? -0.5 : 0.5), static_cast<int>(bits % 5) - 2));
}

// 0 where hosts have different numbers of ranks.
size_t ranks_of_each(const std::vector<int>& host) {
  std::map<int, size_t> ranks;
  for (const int h : host) ++ranks[h];
  for (const auto& [h, count] : ranks) {
    if (count != ranks.begin()->second) return 0;
  }
  return ranks.begin()->second;
}

uint64_t mix(uint64_t x) {  // SplitMix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

Order order_of(const std::string& algorithm) {
  if (algorithm == "ring") return Order::kRing;
  if (algorithm == "doubling") return Order::kPairs;
  if (algorithm == "hierarchical" || algorithm == "hierarchical_tree") return Order::kHosts;
  if (algorithm == "hierarchical_ring") return Order::kHostsRing;
  return Order::kTree;
}

bool reduces(CollectiveKind kind) {
  return kind == CollectiveKind::kAllReduce || kind == CollectiveKind::kReduceScatter ||
         kind == CollectiveKind::kReduce;
}

bool order_matters(CollectiveKind kind, DType dtype, Reduction reduction) {
  return reduces(kind) && is_float(dtype) && reduction != Reduction::kMin && reduction != Reduction::kMax;
}

bool can_run(const std::string& algorithm, CollectiveKind kind, const std::vector<int>& host) {
  const size_t n = host.size();
  const bool slices = kind == CollectiveKind::kReduceScatter || kind == CollectiveKind::kAllGather;
  const bool sums = kind == CollectiveKind::kAllReduce;
  if (algorithm == "direct") return n > 1 || kind != CollectiveKind::kSend;
  if (algorithm == "flat") return sums;
  if (algorithm == "ring" || algorithm == "doubling") return sums || slices;
  if (algorithm == "tree")
    return sums || kind == CollectiveKind::kReduce || kind == CollectiveKind::kBroadcast ||
           kind == CollectiveKind::kBarrier;
  const size_t each = ranks_of_each(host);
  const bool by_hosts = each > 1 && each < n;
  if (algorithm == "hierarchical" || algorithm == "hierarchical_ring") return by_hosts && (sums || slices);
  if (algorithm == "hierarchical_tree")
    return by_hosts && (sums || kind == CollectiveKind::kReduce || kind == CollectiveKind::kBroadcast);
  throw Error(ErrorCode::kInternal, "the conformance test does not know what '" + algorithm + "' can run");
}

std::string runs_by(const std::string& algorithm, CollectiveKind kind, bool in_tree_order,
                    const std::vector<int>& host) {
  const Order order = order_of(algorithm);
  const bool by_hosts = order == Order::kHosts && std::has_single_bit(ranks_of_each(host)) &&
                        std::is_sorted(host.begin(), host.end());
  const bool by_pairs = order == Order::kPairs && pairs_are_the_tree(static_cast<int>(host.size()));
  const bool in_order = by_hosts || by_pairs || order == Order::kTree;
  return can_run(algorithm, kind, host) && (in_order || !in_tree_order) ? algorithm : "direct";
}

std::vector<Bytes> outputs(const Problem& p) {
  const size_t n = p.in.size();
  std::vector<Bytes> out(n);
  const Bytes sum = reduces(p.kind) ? total(p) : Bytes();
  for (size_t r = 0; r < n; ++r) {
    const bool root = static_cast<int>(r) == p.root;
    if (p.kind == CollectiveKind::kAllReduce || (p.kind == CollectiveKind::kReduce && root)) out[r] = sum;
    if (p.kind == CollectiveKind::kReduceScatter) out[r] = slice(sum, p.counts, r, dtype_size(p.dtype));
    if (p.kind == CollectiveKind::kAllGather) out[r] = joined(p.in);
    if (p.kind == CollectiveKind::kBroadcast) out[r] = p.in[static_cast<size_t>(p.root)];
    if (p.kind == CollectiveKind::kAllToAll) out[r] = exchanged(p, r);
    if (p.kind == CollectiveKind::kSend && (r ^ 1) < n) out[r] = p.in[r ^ 1];
  }
  return out;
}

Bytes make_input(DType dtype, Reduction reduction, int64_t elements, uint64_t seed) {
  const size_t size = dtype_size(dtype);
  Bytes bytes(static_cast<size_t>(elements) * size);
  for (int64_t i = 0; i < elements; ++i) {
    const uint64_t bits = mix(seed * 1'000'003 + static_cast<uint64_t>(i));
    std::byte* p = bytes.data() + static_cast<size_t>(i) * size;
    on_elements(dtype, p, p, p, [&](auto x, auto) {
      using T = decltype(x);
      if constexpr (std::is_floating_point_v<T>) {
        const bool odd = reduction == Reduction::kMin || reduction == Reduction::kMax;
        if (odd && bits % 31 == 0) return std::numeric_limits<T>::quiet_NaN();
        if (odd && bits % 37 == 0) return -std::numeric_limits<T>::infinity();
      }
      return random_value<T>(bits);
    });
  }
  return bytes;
}

bool same(DType dtype, const std::byte* a, const std::byte* b, int64_t elements) {
  const size_t size = dtype_size(dtype);
  if (elements == 0 || std::memcmp(a, b, static_cast<size_t>(elements) * size) == 0) return true;
  for (int64_t i = 0; i < elements; ++i) {
    const size_t offset = static_cast<size_t>(i) * size;
    if (std::memcmp(a + offset, b + offset, size) == 0) continue;
    bool nan = false;
    Element ignored{};
    if (is_float(dtype)) {
      on_elements(dtype, a + offset, b + offset, ignored.data(), [&](auto x, auto y) {
        nan = x != x && y != y;
        return x;
      });
    }
    if (!nan) return false;
  }
  return true;
}

}  // namespace furrow::comm::reference
