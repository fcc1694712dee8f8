#include "furrow/comm/collective.h"

#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::comm {
namespace {

constexpr std::string_view kKindNames[kCollectiveKinds] = {"all_reduce", "reduce_scatter", "all_gather",
                                                           "broadcast",  "reduce",         "all_to_all",
                                                           "send",       "recv",           "barrier"};
constexpr std::string_view kReductionNames[kReductions] = {"sum", "avg", "min", "max", "prod"};

int64_t slices_but_own(std::span<const int64_t> counts, int64_t total, int rank, int size) {
  const int64_t own = counts.empty() ? total / size : counts[static_cast<size_t>(rank)];
  return total - own;
}

}  // namespace

std::string_view to_string(CollectiveKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

CollectiveKind parse_collective_kind(std::string_view name) {
  std::vector<std::string> known;
  for (int i = 0; i < kCollectiveKinds; ++i) {
    if (kKindNames[i] == name) return static_cast<CollectiveKind>(i);
    known.emplace_back(kKindNames[i]);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("collective", name, known));
}

std::string_view to_string(Reduction reduction) { return kReductionNames[static_cast<size_t>(reduction)]; }

bool can_reduce(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      return true;
    default:
      return false;
  }
}

bool is_reduction(CollectiveKind kind) {
  return kind == CollectiveKind::kAllReduce || kind == CollectiveKind::kReduceScatter ||
         kind == CollectiveKind::kReduce;
}

bool order_matters(const Collective& c) {
  const bool floating =
      c.dtype == DType::kF64 || c.dtype == DType::kF32 || c.dtype == DType::kF16 || c.dtype == DType::kBF16;
  return floating && is_reduction(c.kind) && c.reduction != Reduction::kMin && c.reduction != Reduction::kMax;
}

int64_t bound_bytes(const Collective& c, int rank, int size) {
  const auto in = static_cast<int64_t>(c.in.size()), out = static_cast<int64_t>(c.out.size());
  const auto element = static_cast<int64_t>(dtype_size(c.dtype));
  switch (c.kind) {
    case CollectiveKind::kAllReduce:
      return (2 * (size - 1) * in + size - 1) / size;
    case CollectiveKind::kReduceScatter:
      return (size - 1) * (c.counts.empty() ? in / size : c.counts[static_cast<size_t>(rank)] * element);
    case CollectiveKind::kAllGather:
      return slices_but_own(c.counts, out / element, rank, size) * element;
    case CollectiveKind::kBroadcast:
      return rank == c.root_or_peer ? 0 : out;
    case CollectiveKind::kReduce:
      return rank == c.root_or_peer ? 0 : in;
    case CollectiveKind::kAllToAll:
      return slices_but_own(c.recv_counts, out / element, rank, size) * element;
    case CollectiveKind::kSend:
      return in;
    case CollectiveKind::kRecv:
      return out;
    case CollectiveKind::kBarrier:
      return 0;
  }
  return 0;
}

}  // namespace furrow::comm
