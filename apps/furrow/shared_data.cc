#include "apps/furrow/shared_data.h"

#include <chrono>
#include <future>
#include <string>

#include "furrow/data/fitted_values.h"
#include "furrow/train/rank_texts.h"

namespace furrow::app {
namespace {

constexpr auto kTurn = std::chrono::seconds(1);  // far below any [comm] trace_timeout_seconds

data::Dataset open_here(const config::Config& config, const std::optional<data::Preprocessing>& fitted,
                        const data::WhileOpening& opening) {
  data::DatasetOptions options = data::dataset_options(config);
  options.opening = opening;
  return data::open_dataset(options, fitted ? &*fitted : nullptr);
}

}  // namespace

data::Dataset open_shared(comm::Communicator* communicator, const config::Config& config,
                          const std::optional<data::Preprocessing>& kept, const data::WhileOpening& opening) {
  if (communicator == nullptr) return open_here(config, kept, opening);
  const comm::Group world = communicator->world();
  const bool first = communicator->rank() == 0;
  std::future<data::Dataset> opened;
  if (first) opened = std::async(std::launch::async, [&] { return open_here(config, kept, opening); });
  std::optional<data::Dataset> dataset;
  std::string fitted;
  while (fitted.empty()) {  // a turn is an operation, which has a deadline; the whole has none
    fitted = train::text_of_first(world, "fitted data", [&]() -> std::string {
      if (opened.wait_for(kTurn) != std::future_status::ready) return "";
      dataset = opened.get();
      return data::to_json(dataset->preprocessing);
    });
  }
  if (first) return std::move(*dataset);
  data::WhileOpening quiet = opening;
  quiet.progress = {};
  return open_here(config, data::parse_fitted(fitted), quiet);
}

}  // namespace furrow::app
