#include "apps/furrow/bench_data.h"

#include <fmt/format.h>
#include <time.h>

#include <string>
#include <utility>
#include <vector>

#include "apps/furrow/data_config.h"
#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/data/loader.h"
#include "furrow/data/records.h"
#include "furrow/storage/pack.h"

namespace furrow::app {
namespace {

struct Way {
  std::string name;
  uint64_t memory_budget;
  int readers;         // 0: as the budget decides
  bool alone = false;  // in the thread that asks, without a loader's
};

struct Figures {
  int64_t samples = 0;
  double seconds = 0, cpu_seconds = 0;  // the second of all threads together
};

double process_cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Batches for `seconds`, after one pass over as many as the loader keeps.
Figures measure(const data::Source& source, const config::Config& config, const Way& way, double seconds) {
  data::LoaderOptions options;
  options.sizes = {config.training.local_batch_size};
  options.prefetch = way.alone ? 0 : static_cast<int>(config.data.prefetch_batches);
  data::Loader loader(source, data::SampleOrder(1, source.size(), config.data.shuffle), options);
  for (int i = 0; i < options.prefetch + 1; ++i) {
    loader.next();
    loader.release();
  }
  Figures figures;
  const int64_t begin = system_clock().monotonic_ns();
  const double cpu_begin = process_cpu_seconds();
  while (figures.seconds < seconds) {
    figures.samples += loader.next()->weight;
    loader.release();
    figures.seconds = static_cast<double>(system_clock().monotonic_ns() - begin) * 1e-9;
  }
  figures.cpu_seconds = process_cpu_seconds() - cpu_begin;
  return figures;
}

bool decodes(const data::DatasetOptions& options) {
  if (options.kind == "pack")
    return storage::read_pack(options.path.string()).layout == data::kEncodedRecords;
  return options.kind == "folder";
}

std::vector<Way> ways_of(const data::DatasetOptions& options) {
  if (decodes(options))
    return {{"decoded", 0, 1, /*alone=*/true}, {"decoded", 0, 1}, {"decoded", 0, options.readers}};
  if (options.kind == "pack")
    return {{"mapped", 0, options.readers},
            {"streamed", 1, 1, /*alone=*/true},
            {"streamed", 1, 1},
            {"streamed", 1, options.readers}};
  return {{"in memory", 0, options.readers, /*alone=*/true}, {"in memory", 0, options.readers}};
}

Cell readers_cell(const Way& way) {
  if (way.alone) return std::string("none");
  return way.readers == 0 ? Cell(std::string("auto")) : Cell(int64_t{way.readers});
}

// Bytes that a pack has for one sample of `source`.
double stored_bytes(const data::Source& source, const data::DatasetOptions& options) {
  const auto records = source.records();
  const auto record = static_cast<double>(records->record_bytes());
  if (records->layout() == data::kTokenRecords) return record * static_cast<double>(options.context);
  if (records->layout() != data::kDocumentRecords && records->layout() != data::kEncodedRecords)
    return record;
  return record * static_cast<double>(records->size()) / static_cast<double>(source.size());
}

// In GB; what image files have is not known.
Cell stored_rate(const data::Dataset& dataset, const data::DatasetOptions& options,
                 double samples_per_second) {
  if (options.kind == "folder") return std::monostate();
  if (dataset.sets.empty()) return samples_per_second * stored_bytes(*dataset.train, options) * 1e-9;
  double bytes = 0, weights = 0;
  for (const data::MixedSet& set : dataset.sets) {
    bytes += set.weight * stored_bytes(*set.train, options);
    weights += set.weight;
  }
  return samples_per_second * bytes / weights * 1e-9;
}

double seconds_of(const Arguments& arguments) {
  double seconds = 2;
  if (!arguments.has("--seconds")) return seconds;
  if (parse_double(arguments.get("--seconds", ""), seconds) && seconds > 0 && seconds <= 3600) return seconds;
  throw Error(ErrorCode::kInvalidArgument, "--seconds is no number above 0, up to 3600");
}

}  // namespace

int bench_data(const Arguments& arguments) {
  const config::Config config = data_config(arguments.positional[1], arguments.overrides);
  const double seconds = seconds_of(arguments);
  data::DatasetOptions options = data::dataset_options(config);
  Table table({{"data"},
               {"readers"},
               {"samples per second", "", 0},
               {"stored", "stored_gb_per_second", 3},
               {"delivered", "delivered_gb_per_second", 3},
               {"CPU ns per sample", "cpu_ns_per_sample", 0}});
  data::Dataset dataset;
  for (const Way& way : ways_of(options)) {
    const bool same = options.memory_budget == way.memory_budget && options.readers == way.readers;
    options.memory_budget = way.memory_budget;
    options.readers = way.readers;
    if (!same || dataset.train == nullptr) dataset = data::open_dataset(options);  // a table takes long
    const Figures figures = measure(*dataset.train, config, way, seconds);
    size_t delivered = 0;
    for (const data::Field& field : dataset.train->fields()) delivered += data::sample_bytes(field);
    const auto samples = static_cast<double>(figures.samples);
    const double rate = samples / figures.seconds;
    table.add_row({way.name, readers_cell(way), rate, stored_rate(dataset, options, rate),
                   rate * static_cast<double>(delivered) * 1e-9, figures.cpu_seconds * 1e9 / samples});
  }
  fmt::print("{}", table.print(arguments.has("--json")));
  return 0;
}

}  // namespace furrow::app
