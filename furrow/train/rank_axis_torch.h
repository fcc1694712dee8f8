// The tensor axis of a rank, over its group: what blocks and objectives communicate through.
#pragma once

#include <cstdint>
#include <memory>

#include "furrow/base/clock.h"
#include "furrow/comm/group.h"
#include "furrow/tensor/tensor_axis_torch.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

class RankAxis final : public tensor::TensorAxis {
 public:
  RankAxis(comm::Group group, const Clock* clock) : group_(std::move(group)), clock_(clock) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  void run(const tensor::AxisCollective& collective) override;

  int64_t busy_ns() const { return busy_ns_; }  // in run(), waiting for peers included, since it was made

 private:
  comm::Group group_;
  const Clock* clock_;
  int64_t busy_ns_ = 0;
};

// Null where the tensor axis has one rank.
std::unique_ptr<RankAxis> make_rank_axis(const RankContext& rank);

}  // namespace furrow::train
