// A tensor axis whose ranks are threads.  For tests only.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "furrow/tensor/tensor_axis_torch.h"

namespace furrow::tensor::testing {

// Where the ranks meet.  A rank that fails ends the others' waiting.
class Meeting {
 public:
  explicit Meeting(int ranks) : ranks_(ranks), calls_(static_cast<size_t>(ranks)) {}
  void arrive();  // returns when all have; throws when one has failed
  void fail();
  int ranks() const { return ranks_; }
  std::vector<const AxisCollective*>& calls() { return calls_; }  // by rank

 private:
  int ranks_;
  std::vector<const AxisCollective*> calls_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int64_t round_ = 0;
  bool failed_ = false;
};

class ThreadAxis final : public TensorAxis {
 public:
  ThreadAxis(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.ranks(); }
  void run(const AxisCollective& collective) override;  // terms in rank order

 private:
  Meeting& meeting_;
  int rank_;
};

// Calls `body` on a thread for each rank; the first error is thrown again.
void run_ranks(int ranks, const std::function<void(ThreadAxis& axis)>& body);

}  // namespace furrow::tensor::testing
