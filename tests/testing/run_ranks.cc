#include "tests/testing/run_ranks.h"

#include <fmt/format.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "furrow/comm/inproc.h"

namespace furrow::testing {
namespace {

struct Failure {
  std::string text;
  bool first = false;  // nobody had failed before
};

void run_one(std::shared_ptr<comm::InprocWorld> world, int rank, const comm::CommunicatorOptions& options,
             const std::function<void(comm::Communicator&)>& fn, std::atomic<bool>& failed,
             Failure& failure) {
  const auto communicator = comm::join_inproc(std::move(world), rank, options);
  const auto fail = [&](const Error& error) {
    const bool own = !communicator->aborted();
    failure = {error.what(), !failed.exchange(true) || own};
    communicator->abort(error.with_context(fmt::format("rank {}", rank)));
  };
  try {
    fn(*communicator);
  } catch (const Error& error) {
    fail(error);
  } catch (const std::exception& error) {
    fail(Error(ErrorCode::kInternal, error.what()));
  }
}

}  // namespace

void run_ranks(int size, const std::function<void(comm::Communicator&)>& fn,
               const comm::CommunicatorOptions& options) {
  const auto world = std::make_shared<comm::InprocWorld>(size);
  std::vector<Failure> failures(static_cast<size_t>(size));
  std::atomic<bool> failed{false};
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < size; ++r) {
      threads.emplace_back(
          [&, r] { run_one(world, r, options, fn, failed, failures[static_cast<size_t>(r)]); });
    }
  }
  std::string text;
  for (int r = 0; r < size; ++r) {
    const Failure& failure = failures[static_cast<size_t>(r)];
    if (failure.first) text += fmt::format("{}rank {}: {}", text.empty() ? "" : "\n", r, failure.text);
  }
  if (!text.empty()) throw Error(ErrorCode::kInternal, text);
}

}  // namespace furrow::testing
