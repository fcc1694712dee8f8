#include "furrow/train/shared_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/comm/transport.h"
#include "furrow/data/fitted_values.h"
#include "furrow/storage/json.h"
#include "furrow/train/rank_texts.h"

namespace furrow::train {
namespace {

constexpr std::chrono::milliseconds kLook{20};  // for a signal

data::Dataset open_first(const data::DatasetOptions& options,
                         const std::optional<data::Preprocessing>& kept) {
  if (kept) data::check_kept(options, *kept);
  return data::open_dataset(options, kept ? &*kept : nullptr);
}

// A line a thing that ranks must have alike.
std::string text_of(const data::Dataset& dataset) {
  return fmt::format("{}test split: {}\n", data::description(dataset), data::size_of(dataset.test.get()));
}

}  // namespace

void require_same_data(comm::Communicator& communicator, const data::Dataset& dataset) {
  const auto own = [&] { return text_of(dataset); };
  const std::vector<std::string> all = texts_of_all(communicator.world(), "data", own);
  const std::vector<std::string> zero = split(all[0], '\n');
  for (size_t r = 1; r < all.size(); ++r) {
    const std::vector<std::string> other = split(all[r], '\n');
    const auto [mine, theirs] = std::mismatch(zero.begin(), zero.end(), other.begin(), other.end());
    if (mine == zero.end() || theirs == other.end()) continue;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} has other data than {}: {}, there {}: give [training] dataset_path the same "
                            "files on every host",
                            comm::describe(communicator.roster(), static_cast<int>(r)),
                            comm::describe(communicator.roster(), 0), *theirs, *mine));
  }
}

namespace {

// Opened on a thread of its own, so that the others can be told in turns that it goes on: a turn is an
// operation, which has a deadline; the whole has none.  Ends early where nobody waits for it any more.
class Opening {
 public:
  using Open = std::function<data::Dataset(const data::DatasetOptions&)>;
  Opening(data::DatasetOptions options, const Open& open) : cancel_(options.opening.cancel) {
    options.opening.cancel = &given_up_;
    opening_ = std::async(std::launch::async, open, std::move(options));
  }
  ~Opening() { given_up_.cancel(); }
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;

  // Waits for a turn at most.
  bool done() {
    for (auto left = kTurn; !dataset_ && left.count() > 0; left -= kLook) {
      if (cancel_ != nullptr && cancel_->cancelled()) given_up_.cancel(cancel_->reason());
      if (opening_.wait_for(kLook) == std::future_status::ready) dataset_ = opening_.get();
    }
    return dataset_.has_value();
  }
  data::Dataset& dataset() { return *dataset_; }

 private:
  const CancelToken* cancel_;
  CancelToken given_up_;                // which the thread looks at; set with `cancel_`
  std::future<data::Dataset> opening_;  // its end waits for the thread
  std::optional<data::Dataset> dataset_;
};

// What the first rank of a host has read, for the others there.
struct Told {
  std::string place;  // data::Dataset::shared
  data::Preprocessing fitted;
};

Told told_by_zero(const comm::Group& world, std::optional<Opening>& opening) {
  wait_in_turns(world, "fitted data", [&] { return world.rank() > 0 || opening->done(); });
  const std::string text = text_of_first(world, "fitted data", [&] {
    const data::Dataset& dataset = opening->dataset();
    return fmt::format("{}\n{}", json_quote(dataset.shared), data::to_json(dataset.preprocessing));
  });
  const size_t line = text.find('\n');
  return {storage::parse_json(text.substr(0, line)).string(), data::parse_fitted(text.substr(line + 1))};
}

}  // namespace

data::Dataset open_shared(comm::Communicator* communicator, const data::DatasetOptions& options,
                          const std::optional<data::Preprocessing>& kept, const std::string& host) {
  if (communicator == nullptr) return open_first(options, kept);
  const comm::Group world = communicator->world();
  const int rank = communicator->rank();
  const std::vector<std::string> hosts = texts_of_all(world, "hosts", [&] { return host; });
  const auto first_of = [&](const std::string& name) {
    return static_cast<int>(std::ranges::find(hosts, name) - hosts.begin());
  };
  const bool one_host = std::ranges::all_of(hosts, [&](const std::string& name) { return name == hosts[0]; });
  data::DatasetOptions own = options;
  own.opening.share = communicator->size() > 1;
  Told told;
  std::optional<Opening> opening;  // whose thread reads `told` and `kept`
  if (rank == 0) opening.emplace(own, [&](const auto& given) { return open_first(given, kept); });
  told = told_by_zero(world, opening);
  const auto open_as_told = [&](const auto& given) { return data::open_dataset(given, &told.fitted); };
  std::string place = first_of(host) == 0 ? told.place : "";
  if (!told.place.empty() && !one_host) {
    if (first_of(host) == rank && rank > 0) opening.emplace(own, open_as_told);
    wait_in_turns(world, "data of a host", [&] { return !opening || opening->done(); });
    const std::vector<std::string> places = texts_of_all(
        world, "data of a host", [&] { return opening ? opening->dataset().shared : std::string(); });
    if (first_of(host) > 0) place = places[static_cast<size_t>(first_of(host))];
  }
  if (!opening) {
    own.opening.shared = place;
    opening.emplace(own, open_as_told);
  }
  wait_in_turns(world, "data", [&] { return opening->done(); });
  return std::move(opening->dataset());
}

}  // namespace furrow::train
