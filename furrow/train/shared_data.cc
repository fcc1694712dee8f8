#include "furrow/train/shared_data.h"

#include <chrono>
#include <future>
#include <string>

#include "furrow/data/fitted_values.h"
#include "furrow/train/rank_texts.h"

namespace furrow::train {
namespace {

constexpr auto kTurn = std::chrono::seconds(1);  // far below any [comm] trace_timeout_seconds

data::Dataset open_first(const data::DatasetOptions& options,
                         const std::optional<data::Preprocessing>& kept) {
  if (kept) data::check_kept(options, *kept);
  return data::open_dataset(options, kept ? &*kept : nullptr);
}

}  // namespace

data::Dataset open_shared(comm::Communicator* communicator, const data::DatasetOptions& options,
                          const std::optional<data::Preprocessing>& kept) {
  if (communicator == nullptr) return open_first(options, kept);
  const comm::Group world = communicator->world();
  const bool first = communicator->rank() == 0;
  std::future<data::Dataset> opening;
  if (first) opening = std::async(std::launch::async, [&] { return open_first(options, kept); });
  std::optional<data::Dataset> dataset;
  std::string fitted;
  while (fitted.empty()) {  // a turn is an operation, which has a deadline; the whole has none
    fitted = text_of_first(world, "fitted data", [&]() -> std::string {
      if (opening.wait_for(kTurn) != std::future_status::ready) return "";
      dataset = opening.get();
      return data::to_json(dataset->preprocessing);
    });
  }
  if (first) return std::move(*dataset);
  const data::Preprocessing values = data::parse_fitted(fitted);
  return data::open_dataset(options, &values);
}

}  // namespace furrow::train
