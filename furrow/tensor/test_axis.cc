#include <ATen/ATen.h>

#include <exception>
#include <thread>

#include "furrow/base/error.h"
#include "furrow/tensor/test_axis_torch.h"

namespace furrow::tensor::testing {

void Meeting::arrive() {
  std::unique_lock lock(mutex_);
  const int64_t round = round_;
  if (++arrived_ == ranks_) {
    arrived_ = 0;
    ++round_;
    changed_.notify_all();
  }
  changed_.wait(lock, [&] { return failed_ || round_ != round; });
  if (round_ == round) throw Error(ErrorCode::kCancelled, "another rank has failed");
}

void Meeting::fail() {
  const std::lock_guard lock(mutex_);
  failed_ = true;
  changed_.notify_all();
}

void ThreadAxis::run(const AxisCollective& collective) {
  auto& calls = meeting_.calls();
  calls[static_cast<size_t>(rank_)] = &collective;
  meeting_.arrive();
  at::Tensor result;
  for (int rank = 0; rank < size(); ++rank) {
    const AxisCollective& call = *calls[static_cast<size_t>(rank)];
    FURROW_CHECK(call.op == collective.op && call.bytes() == collective.bytes(), "ranks differ");
    at::Tensor term = call.in;
    if (collective.op == AxisCollective::Op::kReduceScatter) term = term[rank_];
    if (collective.op == AxisCollective::Op::kAllGather)
      collective.out[rank].copy_(term);
    else if (!result.defined())
      result = term.clone();
    else if (collective.reduction == AxisCollective::Reduction::kMax)
      result = at::maximum(result, term);
    else
      result += term;
  }
  meeting_.arrive();
  if (result.defined()) collective.out.copy_(result);
  meeting_.arrive();
}

void run_ranks(int ranks, const std::function<void(ThreadAxis&)>& body) {
  Meeting meeting(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        ThreadAxis axis(meeting, rank);
        body(axis);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
        meeting.fail();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace furrow::tensor::testing
