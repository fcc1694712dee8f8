// furrow plan: what a run would execute and need, without running it and without libtorch.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "apps/furrow/commands.h"
#include "apps/furrow/plan_model.h"
#include "apps/furrow/plan_search.h"
#include "apps/furrow/plan_timeline.h"
#include "furrow/base/error.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/observe/run_folder.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/program.h"
#include "furrow/plan/quote.h"
#include "furrow/train/recipe.h"

namespace furrow::app {
namespace {

struct Planned {
  plan::Program program;
  plan::Quote quote;
  int64_t classes = 0, steps = 0;
};

// Which of how many ranks.
struct Place {
  int rank = 0;
  int ranks = 1;
};

int number_option(const Arguments& arguments, std::string_view option, int64_t least, int64_t most) {
  const std::string text = arguments.get(option, fmt::format("{}", least));
  int64_t value = 0;
  if (parse_int(text, value) && value >= least && value <= most) return static_cast<int>(value);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} {}: it must be a number from {} to {}", option, text, least, most));
}

Place place_of(const Arguments& arguments) {
  Place place;
  place.ranks = number_option(arguments, "--nproc", 1, 1 << 16);
  place.rank = number_option(arguments, "--rank", 0, place.ranks - 1);
  return place;
}

Planned plan_of(const config::Config& config, const Place& place) {
  Planned planned;
  const plan::Layout layout = plan::layout_from(config.parallelism, place.ranks);
  const PlannedModel model = planned_model(config);
  const plan::ModelSpec spec = plan::compilable_spec(layout, model.spec);
  planned.classes = model.classes;
  planned.steps = train::total_steps(config.training, model.train_samples, layout.data_ranks());
  planned.program = plan::compile_train(spec, layout, train::train_options(config, spec, layout, place.rank));
  planned.quote = plan::quote(planned.program, spec);
  return planned;
}

Table units_table(const plan::Quote& quote) {
  Table table({{"unit"},
               {"kind"},
               {"output"},
               {"parameters"},
               {"forward flops"},
               {"output bytes", "", kAsBytes},
               {"saved bytes", "", kAsBytes},
               {"recomputed"}});
  for (const plan::UnitQuote& unit : quote.units) {
    table.add_row({unit.name, unit.kind, to_string(unit.output), unit.parameters, unit.forward_flops,
                   unit.output_bytes, unit.saved_bytes, unit.recomputed});
  }
  return table;
}

Table memory_table(const plan::Quote& quote) {
  Table table({{"memory"}, {"planned peak", "planned_peak_bytes", kAsBytes}});
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    const int64_t bytes = quote.peak_bytes[kind];
    if (bytes > 0) table.add_row({std::string(to_string(static_cast<MemoryKind>(kind))), bytes});
  }
  table.add_row({std::string("total"), quote.total_bytes()});
  if (quote.host_bytes == 0) return table;
  table.add_row({std::string("beside it, optimizer on the host"), quote.host_bytes});
  for (const plan::CopyQuote& copy : quote.copies) {
    const bool down = copy.op == plan::Op::kCopyDown;
    table.add_row({std::string(down ? "copied down a step" : "copied up a step"), copy.bytes});
  }
  return table;
}

// Flat buffers by what they are for, beside the formula's figures.
Table items_table(const plan::Quote& quote) {
  Table table({{"flat buffers", "item"},
               {"planned", "planned_bytes", kAsBytes},
               {quote.formula.text, "formula_bytes", kAsBytes}});
  const std::pair<std::string_view, double> formula[] = {{"parameters", quote.formula.parameters},
                                                         {"teacher", quote.formula.teacher},
                                                         {"gradients, final", quote.formula.gradients},
                                                         {"optimizer", quote.formula.optimizer}};
  for (const plan::MemoryItem& item : quote.memory) {
    std::vector<Cell> row = {item.name, item.bytes, Cell()};
    for (const auto& [name, bytes] : formula) {
      if (name == item.name) row[2] = static_cast<int64_t>(bytes);
    }
    table.add_row(std::move(row));
  }
  return table;
}

// What a rank receives in a step.
Table communication_table(const plan::Quote& quote) {
  Table table({{"communication"},
               {"over"},
               {"times"},
               {"this rank", "wire_bytes", kAsBytes},
               {"mean of ranks", "mean_bytes", kAsBytes},
               {"bound", "bound_bytes", kAsBytes}});
  for (const plan::CollectiveQuote& each : quote.collectives) {
    table.add_row({std::string(plan::op_info(each.op).name),
                   std::string(plan::kGroupAxisNames[static_cast<size_t>(each.axis)]), each.count,
                   each.wire_bytes, static_cast<int64_t>(each.mean_bytes),
                   static_cast<int64_t>(each.bound_bytes)});
  }
  return table;
}

std::string names(const std::vector<plan::Value>& values) {
  std::vector<std::string> texts;
  for (const plan::Value& value : values) texts.push_back(plan::to_string(value));
  return join(texts, " ");
}

Table program_table(const plan::Program& program) {
  Table table({{"index"}, {"op"}, {"unit"}, {"microbatch"}, {"reads"}, {"writes"}, {"drops"}});
  int64_t index = 0;
  for (const plan::Instruction& instruction : program.instructions) {
    std::vector<Cell> row(7);
    row[0] = index++;
    row[1] = std::string(plan::op_info(instruction.op).name);
    if (instruction.unit >= 0) row[2] = program.units[static_cast<size_t>(instruction.unit)];
    if (instruction.microbatch >= 0) row[3] = static_cast<int64_t>(instruction.microbatch);
    row[4] = names(instruction.reads);
    row[5] = names(instruction.writes);
    row[6] = names(instruction.drops);
    table.add_row(std::move(row));
  }
  return table;
}

Table summary_table(const Planned& planned, bool as_json) {
  const plan::Quote& quote = planned.quote;
  Table table({{"figure"}, {"value"}});
  const auto add = [&](const char* figure, Cell value) {
    table.add_row({std::string(figure), std::move(value)});
  };
  add("architecture", quote.architecture);
  if (quote.placement.layout.world() > 1) {
    add("layout", quote.placement.layout.to_string());
    add("rank", static_cast<int64_t>(quote.placement.rank));
    if (quote.placement.zero_stage > 0) add("ZeRO stage", static_cast<int64_t>(quote.placement.zero_stage));
    add("bytes per step", static_cast<int64_t>(quote.communication_bytes()));
    if (quote.data_parallel_bytes > 0)
      add("  times data parallel", quote.communication_bytes() / quote.data_parallel_bytes);
  }
  if (as_json) add("deterministic", quote.deterministic);
  add("units", static_cast<int64_t>(quote.units.size()));
  add("parameters", quote.parameters);
  add("classes", planned.classes);
  add("steps", planned.steps);
  add("samples per step", quote.samples);
  add("microbatches per step", quote.microbatches);
  add("instructions per step", quote.instructions);
  add("GFLOP per step", quote.flops.total() / 1e9);
  add("  forward", quote.flops.forward / 1e9);
  add("  recompute", quote.flops.recompute / 1e9);
  add("  backward input", quote.flops.backward_input / 1e9);
  add("  backward weight", quote.flops.backward_weight / 1e9);
  return table;
}

// Options of the search alone, without --cluster: this machine is meant.
bool searches(const Arguments& arguments) {
  constexpr std::string_view kSearching[] = {
      "--cluster", "--scale",   "--objective", "--deadline",
      "--write",   "--explain", "--without",   "--allow-recipe-change"};
  const bool any = std::any_of(std::begin(kSearching), std::end(kSearching),
                               [&](std::string_view option) { return arguments.has(option); });
  for (const std::string_view option : {"--print", "--rank", "--trace", "--draw"}) {
    if (any && arguments.has(option)) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} is about one layout, not about a search: leave --cluster and its options away",
                      option));
    }
  }
  return any;
}

int run_plan(const Arguments& arguments) {
  const std::string& what = arguments.positional[0];
  const std::string file = observe::holds_run(what) ? what + "/config.toml" : what;
  const config::Config config = config::load(file, arguments.overrides);
  if (searches(arguments)) return run_plan_search(config, arguments);
  const bool as_json = arguments.has("--json");
  const std::string part = arguments.get("--print", "");
  const Place place = place_of(arguments);
  const bool over_time = part == "timeline" || part == "memory-timeline";
  if (over_time || arguments.has("--trace") || arguments.has("--draw")) {
    const Table timeline =
        simulated_timeline(config, {place.ranks, place.rank, arguments.get("--trace", ""),
                                    arguments.get("--draw", ""), part == "memory-timeline"});
    if (over_time) fmt::print("{}", timeline.print(as_json));
    if (over_time || part.empty()) return 0;
  }
  const Planned planned = plan_of(config, place);
  if (part == "program") {
    fmt::print("{}", as_json ? program_table(planned.program).json() : plan::to_text(planned.program));
  } else if (part == "units") {
    fmt::print("{}", units_table(planned.quote).print(as_json));
  } else if (part == "memory") {
    fmt::print("{}", memory_table(planned.quote).print(as_json));
  } else if (part == "buffers") {
    fmt::print("{}", items_table(planned.quote).print(as_json));
  } else if (part == "communication") {
    fmt::print("{}", communication_table(planned.quote).print(as_json));
  } else if (as_json) {
    fmt::print("{}", summary_table(planned, true).json());
  } else {
    fmt::print("deterministic {}\n\n", planned.quote.deterministic);
    fmt::print("{}\n{}", summary_table(planned, false).text(), memory_table(planned.quote).text());
    if (planned.quote.collectives.empty()) return 0;
    fmt::print("\n{}\n{}", items_table(planned.quote).text(), communication_table(planned.quote).text());
  }
  return 0;
}

constexpr Option kOptions[] = {
    {"--print", "program|units|memory|buffers|communication|timeline|memory-timeline",
     "what to print (default: the figures of a step, its memory, its communication)"},
    {"--nproc", "N", "plan for N ranks, laid out by [parallelism]; of a cluster, search its first N devices"},
    {"--rank", "R", "which of them (default 0)"},
    {"--trace", "FILE", "write the simulated timeline of a step on this machine, for Perfetto"},
    {"--draw", "FILE", "draw that step and the memory that it holds, as SVG"},
    {"--cluster", "FILE|local", "search the layouts for a cluster (examples/clusters) or this machine"},
    {"--scale", "FIRST..LAST",
     "the best layout for every doubling of devices, and where more stop paying off"},
    {"--objective", "time|cost", "what the best one is best in (default time); cost picks the hosts too"},
    {"--deadline", "TIME", "of the run, as 12h: the fewest hosts that meet it, or the cheapest"},
    {"--allow-recipe-change", "",
     "try other local_batch_size and global_batch_size and bfloat16 too, which changes the result"},
    {"--without", "PASS,...", "leave passes of the search out (--explain names them)"},
    {"--explain", "", "what each pass did, and how long it took"},
    {"--write", "FILE", "write the config with the best layout, for `furrow train FILE --nproc N`"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kPlanCommand{
    .name = "plan",
    .arguments = "CONFIG|RUN",
    .min_positional = 1,
    .max_positional = 1,
    .takes_overrides = true,
    .summary = "say what a run would execute and need, without running it",
    .description =
        "  furrow plan examples/gpt-shakespeare.toml\n"
        "  furrow plan examples/gpt-shakespeare.toml --print program\n"
        "  furrow plan examples/gpt-shakespeare.toml --nproc 4 --rank 3 --print communication\n"
        "  furrow plan examples/gpt-124m.toml --cluster examples/clusters/8xh100.toml --explain\n"
        "  furrow plan examples/mlp-mnist.toml --cluster local --nproc 2 --write plan.toml\n"
        "\n"
        "Opens the data for its shapes, compiles the program of one training step and verifies it.\n"
        "The program printed is the one that `furrow train` executes; parse and print are inverse.\n",
    .options = kOptions,
    .run = run_plan,
};

}  // namespace furrow::app
