#include <utility>

#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/rank_axis_torch.h"
#include "furrow/train/step_ledger.h"

namespace furrow::train {
namespace {

comm::CollectiveKind kind_of(tensor::AxisCollective::Op op) {
  switch (op) {
    case tensor::AxisCollective::Op::kReduceScatter:
      return comm::CollectiveKind::kReduceScatter;
    case tensor::AxisCollective::Op::kAllGather:
      return comm::CollectiveKind::kAllGather;
    case tensor::AxisCollective::Op::kAllReduce:
      break;
  }
  return comm::CollectiveKind::kAllReduce;
}

}  // namespace

void RankAxis::run(const tensor::AxisCollective& collective) {
  const int64_t start_ns = clock_->monotonic_ns();
  const bool largest = collective.reduction == tensor::AxisCollective::Reduction::kMax;
  comm::Collective c;
  c.kind = kind_of(collective.op);
  c.dtype = tensor::dtype_of(collective.in.scalar_type());
  c.reduction = largest ? comm::Reduction::kMax : comm::Reduction::kSum;
  c.in = {static_cast<const std::byte*>(collective.in.const_data_ptr()), collective.in.nbytes()};
  c.out = {static_cast<std::byte*>(collective.out.data_ptr()), collective.out.nbytes()};
  // The ledger's rows are by label, and the audit tells small ones apart.
  c.label = c.in.size() > static_cast<size_t>(kSmallSum) ? "tensor axis" : "tensor axis, small";
  group_.run(c);
  const int64_t took_ns = clock_->monotonic_ns() - start_ns;
  busy_ns_ += took_ns;
  if (times_ns_ != nullptr) times_ns_->push_back(took_ns);
}

std::unique_ptr<RankAxis> make_rank_axis(const RankContext& rank) {
  const comm::Group& group = rank.group(plan::GroupAxis::kTensor);
  if (rank.alone() || group.state() == nullptr) return nullptr;
  return std::make_unique<RankAxis>(group, rank.clock);
}

}  // namespace furrow::train
