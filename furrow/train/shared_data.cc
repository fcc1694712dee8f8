#include "furrow/train/shared_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/error.h"
#include "furrow/base/hash.h"
#include "furrow/base/text.h"
#include "furrow/comm/transport.h"
#include "furrow/data/fitted_values.h"
#include "furrow/train/rank_texts.h"

namespace furrow::train {
namespace {

constexpr int64_t kCompared = 8;                 // samples: more would be read from a slow disk for nothing
constexpr auto kTurn = std::chrono::seconds(1);  // far below any [comm] trace_timeout_seconds

data::Dataset open_first(const data::DatasetOptions& options,
                         const std::optional<data::Preprocessing>& kept) {
  if (kept) data::check_kept(options, *kept);
  return data::open_dataset(options, kept ? &*kept : nullptr);
}

std::string size_of(const data::Source* split) {
  return split == nullptr ? "none" : fmt::format("{} samples", split->size());
}

// Of one sample, all fields.
uint64_t digest_of(const data::Source& source, int64_t index) {
  std::vector<Array> arrays;
  std::vector<ArrayView> views;
  for (const data::Field& field : source.fields()) {
    Shape shape = field.shape;
    shape.insert(shape.begin(), 1);
    arrays.emplace_back(field.dtype, shape);
    views.push_back(arrays.back().view());
  }
  source.read(std::span(&index, 1), views);
  uint64_t digest = 0;
  for (const ArrayView& view : views) digest = digest * 31 + xxh3_64(view.bytes);
  return digest;
}

// A line a thing that ranks must have alike.
std::string description(const data::Dataset& dataset) {
  const data::Source& train = *dataset.train;
  std::string text =
      fmt::format("training split: {}\nvalidation split: {}\ntest split: {}\n", size_of(&train),
                  size_of(dataset.validation.get()), size_of(dataset.test.get()));
  for (const data::Field& field : train.fields())
    text += fmt::format("field {}: {} {}\n", field.name, to_string(field.dtype), to_string(field.shape));
  for (int64_t i = 0; i < std::min(kCompared, train.size()); ++i) {
    const int64_t index = i * train.size() / std::min(kCompared, train.size());
    text += fmt::format("training sample {}: {:016x}\n", index, digest_of(train, index));
  }
  return text;
}

}  // namespace

void require_same_data(comm::Communicator& communicator, const data::Dataset& dataset) {
  const auto own = [&] { return description(dataset); };
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
