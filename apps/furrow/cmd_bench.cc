// furrow bench: measurements of this machine with furrow's own parts.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <span>

#include "apps/furrow/bench_comm.h"
#include "apps/furrow/bench_scaling.h"
#include "apps/furrow/commands.h"
#include "apps/furrow/launcher.h"
#include "apps/furrow/ranks.h"
#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"

namespace furrow::app {
namespace {

struct BenchRow {
  std::string_view name;
  size_t positional;                          // words, the name among them
  std::span<const std::string_view> options;  // of kOptions, those that it takes
  bool takes_overrides;
  int (*run)(const Arguments& arguments);
};

std::vector<int> parse_rank_list(const std::string& text) {
  std::vector<int> ranks;
  for (const std::string& part : split(text, ',')) ranks.push_back(parse_ranks(part));
  return ranks;
}

CommBenchOptions comm_options(const Arguments& arguments) {
  CommBenchOptions options;
  if (arguments.has("--op")) options.operations = split(arguments.get("--op", ""), ',');
  const auto known = comm_bench_operations();
  for (const std::string& name : options.operations) {
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw Error(ErrorCode::kInvalidArgument, unknown_name_message("operation", name, known));
  }
  return options;
}

// In a rank: measures, and rank 0 prints.
int measure_comm(const Arguments& arguments, const comm::World& world) {
  JoinOptions join;
  join.transport = arguments.get("--transport", "");
  join.algorithm = arguments.get("--algorithm", "");
  const auto communicator = join_world(world, join);
  const Table table = comm_bench_table(bench_comm(*communicator, comm_options(arguments)));
  if (world.rank == 0) fmt::print("{}", table.print(arguments.has("--json")));
  return 0;
}

int bench_comm_command(const Arguments& arguments) {
  comm_options(arguments);  // wrong ones are told before anything starts
  const comm::World world = this_world();
  if (world.size > 1) return measure_comm(arguments, world);
  std::vector<CommBenchRow> rows;
  for (const int ranks : parse_rank_list(arguments.get("--nproc", "2,4,8"))) {
    if (ranks < 2)
      throw Error(ErrorCode::kInvalidArgument, "one rank has nobody to talk to: --nproc 2 or more");
    std::string printed;
    LaunchRequest request;
    request.words = {"bench", "comm", "--json"};
    for (const char* option : {"--op", "--transport", "--algorithm"}) {
      if (arguments.has(option))
        request.words.push_back(fmt::format("{}={}", option, arguments.get(option, "")));
    }
    request.ranks = ranks;
    request.output = &printed;
    const Launched launched = launch(request);
    if (launched.exit_status != 0) return report(launched);
    const auto more = parse_comm_bench(printed);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  fmt::print("{}", comm_bench_table(rows).print(arguments.has("--json")));
  return 0;
}

int bench_scaling_command(const Arguments& arguments) {
  refuse_inside_a_world();
  if (arguments.has("--weak") && arguments.has("--strong"))
    throw Error(ErrorCode::kInvalidArgument, "--weak or --strong, not both");
  ScalingOptions options;
  options.config = arguments.positional[1];
  options.overrides = arguments.overrides;
  options.ranks = parse_rank_list(arguments.get("--nproc", "1,2"));
  options.strong = arguments.has("--strong");
  options.repeats = parse_positive("--repeats", arguments.get("--repeats", "7"));
  options.steps = parse_positive("--steps", arguments.get("--steps", "20"));
  const auto rows = bench_scaling(options);
  fmt::print("{}", scaling_table(rows, options.strong).print(arguments.has("--json")));
  return 0;
}
