// The tensor axis of a rank, over its group: what blocks and objectives communicate through.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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
  // From now on each run() adds what it took; null: no longer.
  void record(std::vector<int64_t>* times_ns) { times_ns_ = times_ns; }

 private:
  comm::Group group_;
  const Clock* clock_;
  int64_t busy_ns_ = 0;
  std::vector<int64_t>* times_ns_ = nullptr;
};

// Null where the tensor axis has one rank.
std::unique_ptr<RankAxis> make_rank_axis(const RankContext& rank);

}  // namespace furrow::train
