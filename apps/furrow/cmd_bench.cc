// furrow bench: parts of furrow measured on this machine.
#include "apps/furrow/bench_data.h"
#include "apps/furrow/commands.h"
#include "furrow/base/error.h"
#include "furrow/base/names.h"

namespace furrow::app {
namespace {

struct BenchRow {
  std::string_view name;
  int (*run)(const Arguments& arguments);
};
constexpr BenchRow kBenches[] = {{"data", &bench_data}};

int run_bench(const Arguments& arguments) {
  std::vector<std::string> known;
  for (const BenchRow& bench : kBenches) {
    if (bench.name == arguments.positional[0]) return bench.run(arguments);
    known.emplace_back(bench.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("bench", arguments.positional[0], known));
}

constexpr Option kOptions[] = {
    {"--seconds", "S", "how long each way is measured (default: 2)"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kBenchCommand{
    .name = "bench",
    .arguments = "data SOURCE|DIR",
    .min_positional = 2,
    .max_positional = 2,
    .takes_overrides = true,
    .summary = "measure parts of furrow on this machine",
    .description =
        "  furrow bench data packs/mnist\n"
        "  furrow bench data examples/convnet-fashion.toml --training.local_batch_size 256\n"
        "\n"
        "data: batches of the training split in shuffled order, with nothing else to do. A pack is measured\n"
        "mapped, streamed by one reader and by several. stored counts the bytes that are read, delivered "
        "those\n"
        "of the batches, both in GB/s.\n",
    .options = kOptions,
    .run = run_bench,
};

}  // namespace furrow::app
