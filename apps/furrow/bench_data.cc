#include "apps/furrow/bench_data.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/furrow/data_config.h"
#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/data/loader.h"
#include "furrow/data/records.h"

namespace furrow::app {
namespace {

struct Way {
  std::string name;
  uint64_t memory_budget;
  int readers;  // 0: as the budget decides
};

struct Figures {
  int64_t samples = 0;
  double seconds = 0;
};

// Batches for at least half a second, after one pass over as many as the loader keeps.
Figures measure(const data::Source& source, const config::Config& config, double seconds) {
  data::LoaderOptions options;
  options.sizes = {config.training.local_batch_size};
  options.prefetch = static_cast<int>(config.data.prefetch_batches);
  data::Loader loader(source, data::SampleOrder(1, source.size(), config.data.shuffle), options);
  for (int i = 0; i < options.prefetch + 1; ++i) {
    loader.next();
    loader.release();
  }
  Figures figures;
  const int64_t begin = system_clock().monotonic_ns();
  while (figures.seconds < seconds) {
    figures.samples += loader.next()->weight;
    loader.release();
    figures.seconds = static_cast<double>(system_clock().monotonic_ns() - begin) * 1e-9;
  }
  return figures;
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
  std::vector<Way> ways{{"in memory", 0, options.readers}};
  if (options.kind == "pack") {
    ways = {{"mapped", 0, options.readers}, {"streamed", 1, 1}, {"streamed", 1, options.readers}};
  }
  Table table({{"data"},
               {"readers"},
               {"samples per second", "", 0},
               {"stored", "stored_gb_per_second", 3},
               {"delivered", "delivered_gb_per_second", 3}});
  for (const Way& way : ways) {
    options.memory_budget = way.memory_budget;
    options.readers = way.readers;
    const data::Dataset dataset = data::open_dataset(options);
    const Figures figures = measure(*dataset.train, config, seconds);
    size_t delivered = 0;
    for (const data::Field& field : dataset.train->fields()) delivered += data::sample_bytes(field);
    const auto records = dataset.train->records();
    const double rate = static_cast<double>(figures.samples) / figures.seconds;
    const double window = records->layout() == data::kTokenRecords ? static_cast<double>(options.context) : 1;
    const double stored = static_cast<double>(records->record_bytes()) * window;
    table.add_row({way.name, way.readers == 0 ? Cell(std::string("auto")) : Cell(int64_t{way.readers}), rate,
                   rate * stored * 1e-9, rate * static_cast<double>(delivered) * 1e-9});
  }
  fmt::print("{}", table.print(arguments.has("--json")));
  return 0;
}

}  // namespace furrow::app
