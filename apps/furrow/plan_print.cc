#include "apps/furrow/plan_print.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>
#include <vector>

#include "apps/furrow/plan_timeline.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/config/batch_note.h"
#include "furrow/models/lora.h"
#include "furrow/models/precision.h"
#include "furrow/plan/compatibility.h"
#include "furrow/plan/compile.h"
#include "furrow/plan/layout.h"
#include "furrow/plan/program.h"
#include "furrow/plan/quote.h"
#include "furrow/plan/workspace.h"
#include "furrow/train/layout_choice.h"
#include "furrow/train/predict.h"
#include "furrow/train/recipe.h"

namespace furrow::app {
namespace {

struct Planned {
  plan::Program program;
  plan::Quote quote;
  train::PlannedMemory memory;  // of the program alone
  int64_t classes = 0, steps = 0;
  std::vector<std::string> notes;  // what the config leaves open, or out
};

// Beside the program: ranks of devices add what NCCL must not.
void add_device_sums(int64_t bytes, plan::Quote* quote) {
  if (bytes == 0) return;
  quote->peak_bytes[static_cast<size_t>(MemoryKind::kOther)] += bytes;
  quote->memory.push_back(
      {MemoryKind::kOther, fmt::format("{}, {}", to_string(MemoryKind::kOther), train::kDeviceSums), bytes});
}

// Those of a view, opened with the first that needs them.
class CostsOnce {
 public:
  explicit CostsOnce(const LayoutView& view) : view_(view) {}
  const plan::Costs& get() {
    if (!costs_) costs_ = view_.costs();
    return *costs_;
  }
  // Null: of devices that were not measured.
  const plan::Costs* known() {
    try {
      return &get();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kFailedPrecondition) throw;
      return nullptr;
    }
  }

 private:
  const LayoutView& view_;
  std::shared_ptr<const plan::Costs> costs_;
};

Planned plan_of(const config::Config& config, const PlannedModel& model, const LayoutView& place,
                CostsOnce& costs) {
  Planned planned;
  const plan::Layout layout = plan::layout_from(config.parallelism, place.ranks);
  const plan::ModelSpec spec = plan::compilable_spec(layout, model.spec);
  planned.classes = model.classes;
  planned.steps = train::total_steps(config.training, model.train_samples, layout.data_ranks());
  plan::TrainOptions options = train::train_options(config, spec, layout, place.rank);
  const plan::Costs* const known = train::chooses_buckets(config, layout) ? costs.known() : nullptr;
  const train::Buckets buckets = train::chosen_buckets(config, model.spec, layout, known);
  options.ranks.bucket_bytes = buckets.bytes;
  for (std::string note :
       {buckets.why, config::batch_by_ranks(config.training, layout.data_ranks()),
        models::left_out_by_star(config.lora, model.spec), models::mixed_precision_text(model.spec)}) {
    if (!note.empty()) planned.notes.push_back(std::move(note));
  }
  planned.program = plan::compile_train(spec, layout, options);
  planned.quote = plan::quote(planned.program, spec);
  if (config.training.device != "cpu" && place.ranks > 1 && config.comm.backend == "nccl")
    add_device_sums(plan::device_sums_bytes(planned.program, spec), &planned.quote);
  planned.memory = {planned.quote.peak_bytes, planned.quote.memory, planned.quote.formula};
  planned.quote.deterministic = plan::deterministic_line(
      planned.program.placement, static_cast<int32_t>(options.microbatch_sizes.size()),
      plan::tree_cost(spec, layout, options));
  return planned;
}

Table units_table(const plan::Quote& quote) {
  Table table({{"unit"},
               {"kind"},
               {"computes in", "compute"},
               {"output"},
               {"parameters"},
               {"forward flops"},
               {"output bytes", "", kAsBytes},
               {"saved bytes", "", kAsBytes},
               {"recomputed"}});
  for (const plan::UnitQuote& unit : quote.units) {
    table.add_row({unit.name, unit.kind, std::string(to_string(unit.compute)), to_string(unit.output),
                   unit.parameters, unit.forward_flops, unit.output_bytes, unit.saved_bytes,
                   unit.recomputed});
  }
  return table;
}

Table memory_table(const Planned& planned, const plan::ProfiledDevice& device) {
  const plan::Quote& quote = planned.quote;
  Table table({{"memory"},
               {"planned peak", "planned_peak_bytes", kAsBytes},
               {quote.formula.text, "formula_bytes", kAsBytes},
               {"items"}});
  const auto add = [&](std::string name, int64_t bytes, Cell formula = {}, const std::string& items = "") {
    table.add_row({std::move(name), bytes, std::move(formula), items.empty() ? Cell() : Cell(items)});
  };
  for (const train::MemoryLine& line : train::memory_lines(planned.memory)) {
    add(std::string(to_string(line.kind)), line.bytes,
        line.formula ? Cell(static_cast<int64_t>(*line.formula)) : Cell(), line.items);
  }
  add("total", quote.total_bytes());
  if (device.memory_bytes > 0) add("of " + device.name, device.memory_bytes);
  if (quote.host_bytes == 0) return table;
  add("beside it, optimizer on the host", quote.host_bytes);
  for (const plan::CopyQuote& copy : quote.copies)
    add(copy.op == plan::Op::kCopyDown ? "copied down a step" : "copied up a step", copy.bytes);
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
  if (std::set<int32_t> buckets(quote.placement.buckets.begin(), quote.placement.buckets.end());
      !buckets.empty())
    add("  in buckets", static_cast<int64_t>(buckets.size()));
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

void print_quote(const Planned& planned, const LayoutView& view) {
  const plan::Quote& quote = planned.quote;
  const std::string& part = view.part;
  if (part == "program") {
    fmt::print("{}", view.as_json ? program_table(planned.program).json() : plan::to_text(planned.program));
  } else if (part == "units") {
    fmt::print("{}", units_table(quote).print(view.as_json));
  } else if (part == "memory") {
    fmt::print("{}", memory_table(planned, view.device).print(view.as_json));
  } else if (part == "buffers") {
    fmt::print("{}", items_table(quote).print(view.as_json));
  } else if (part == "communication") {
    fmt::print("{}", communication_table(quote).print(view.as_json));
  } else if (view.as_json) {
    fmt::print("{}", summary_table(planned, true).json());
  } else {
    fmt::print("deterministic {}\n", quote.deterministic);
    for (const std::string& note : planned.notes) fmt::print("{}\n", note);
    fmt::print("\n{}\n{}", summary_table(planned, false).text(), memory_table(planned, view.device).text());
    if (quote.collectives.empty()) return;
    fmt::print("\n{}\n{}", items_table(quote).text(), communication_table(quote).text());
  }
}

}  // namespace

int number_option(const Arguments& arguments, std::string_view option, int64_t least, int64_t most) {
  const std::string text = arguments.get(option, fmt::format("{}", least));
  int64_t value = 0;
  if (parse_int(text, value) && value >= least && value <= most) return static_cast<int>(value);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} {}: it must be a number from {} to {}", option, text, least, most));
}

LayoutView layout_view(const Arguments& arguments, int ranks) {
  LayoutView view;
  view.ranks = ranks;
  view.rank = number_option(arguments, "--rank", 0, ranks - 1);
  view.part = arguments.get("--print", "");
  view.trace_path = arguments.get("--trace", "");
  view.drawing = arguments.get("--draw", "");
  view.as_json = arguments.has("--json");
  return view;
}

void print_layout(const config::Config& config, const PlannedModel& model, const LayoutView& view) {
  const bool memory = view.part == "memory-timeline";
  const bool over_time = view.part == "timeline" || memory;
  CostsOnce costs(view);
  if (over_time || !view.trace_path.empty() || !view.drawing.empty()) {
    const Table timeline =
        simulated_timeline(config, model.spec, costs.get(),
                           {view.ranks, view.rank, view.trace_path, view.drawing, memory, view.machine});
    if (over_time) fmt::print("{}", timeline.print(view.as_json));
    if (over_time || view.part.empty()) return;
  }
  const Planned planned = plan_of(config, model, view, costs);
  print_quote(planned, view);
  if (view.device.memory_bytes == 0) return;  // unknown
  try {
    train::check_fits(planned.quote.total_bytes(), view.device);
  } catch (const Error& error) {
    log_warning(error.what());
  }
}

}  // namespace furrow::app
