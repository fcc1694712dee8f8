// furrow runs: what has been trained.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "apps/furrow/commands.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/names.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/config/config.h"
#include "furrow/observe/loss_chart.h"
#include "furrow/observe/pictures.h"
#include "furrow/observe/run_folder.h"

namespace furrow::app {
namespace {

Cell cell(const std::optional<double>& value) { return value ? Cell(*value) : Cell(); }

// A run by its path, or by its name under the root folder.
std::string folder_of(const std::string& name, const std::string& root) {
  const std::string under_root = root + "/" + name;
  return !observe::holds_run(name) && observe::holds_run(under_root) ? under_root : name;
}

int list(const Arguments& arguments) {
  Table table({{"run"},
               {"status"},
               {"steps"},
               {"loss", "", 4},
               {"validation loss", "", 4},
               {"validation accuracy", "", 4},
               {"test accuracy", "", 4},
               {"samples per second", "", 0}});
  for (const observe::RunInfo& run : observe::list_runs(arguments.get("--root", "runs"))) {
    const auto& s = run.summary;
    table.add_row({run.name, run.status, s ? s->steps : run.last_step, cell(run.loss),
                   s ? cell(s->validation_loss) : Cell(), s ? cell(s->validation_accuracy) : Cell(),
                   s ? cell(s->test_accuracy) : Cell(), s ? Cell(s->samples_per_second) : Cell()});
  }
  fmt::print("{}", table.print(arguments.has("--json")));
  return 0;
}

// The last values of a run that has no summary, because it still runs or was killed.
std::string unfinished_table(const observe::RunInfo& run, bool as_json) {
  Table table({{"run"}, {"status"}, {"steps"}, {"loss"}});
  table.add_row({run.name, run.status, run.last_step, cell(run.loss)});
  return table.print(as_json);
}

// A curve of `width` characters, eight heights each.
std::string sparkline(const std::vector<observe::StepRecord>& records, std::string_view name, size_t width) {
  std::vector<double> values;
  for (const auto& record : records) {
    const double* value = observe::find_value(record, name);
    if (value != nullptr && std::isfinite(*value)) values.push_back(*value);
  }
  if (values.size() < 2) return "";
  width = std::min(width, values.size());
  std::vector<double> columns(width, 0.0);
  for (size_t column = 0; column < width; ++column) {
    const size_t begin = column * values.size() / width, end = (column + 1) * values.size() / width;
    for (size_t i = begin; i < end; ++i) columns[column] += values[i] / static_cast<double>(end - begin);
  }
  const auto [low, high] = std::minmax_element(columns.begin(), columns.end());
  constexpr std::string_view kBars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string line;
  for (const double value : columns) {
    const double share = *high > *low ? (value - *low) / (*high - *low) : 0;
    line += kBars[static_cast<size_t>(std::min(7.0, share * 8))];
  }
  return fmt::format("{:<22}{}  {:.4f} to {:.4f}\n", name, line, values.front(), values.back());
}

int show(const std::string& name, const Arguments& arguments) {
  const observe::RunInfo run = observe::read_run(folder_of(name, arguments.get("--root", "runs")));
  const bool as_json = arguments.has("--json");
  if (!run.summary) {
    fmt::print("{}", unfinished_table(run, as_json));
  } else {
    fmt::print("{}", as_json ? observe::to_json(*run.summary) : observe::to_table(*run.summary));
  }
  if (as_json) return 0;
  const auto records = observe::read_metrics(run.path + "/metrics.jsonl");
  for (const char* curve : {"loss", "validation_loss"}) fmt::print("{}", sparkline(records, curve, 50));
  const std::string description = config::load(run.path + "/config.toml").job.description;
  if (!description.empty()) fmt::print("{:<22}{}\n", "description", description);
  fmt::print("{:<22}{}\n", "folder", run.path);
  const std::vector<std::string> pictures = observe::list_pictures(run.path);
  if (!pictures.empty()) fmt::print("{:<22}{}\n", "pictures", join(pictures, ", "));
  return 0;
}

// Rows of figures, then one row per configuration key that differs.
int compare(const std::string& a, const std::string& b, const Arguments& arguments) {
  const std::string root = arguments.get("--root", "runs");
  const observe::RunInfo runs[] = {observe::read_run(folder_of(a, root)),
                                   observe::read_run(folder_of(b, root))};
  Table table({{"figure"}, {runs[0].name, "a"}, {runs[1].name, "b"}, {"b / a", "ratio", 3}});
  const auto add = [&](const char* figure, const std::optional<double>& x, const std::optional<double>& y) {
    const bool both = x && y && *x != 0;
    table.add_row({std::string(figure), cell(x), cell(y), both ? Cell(*y / *x) : Cell()});
  };
  const observe::Summary none;
  const observe::Summary& x = runs[0].summary ? *runs[0].summary : none;
  const observe::Summary& y = runs[1].summary ? *runs[1].summary : none;
  table.add_row({std::string("status"), runs[0].status, runs[1].status, Cell()});
  table.add_row({std::string("steps"), runs[0].last_step, runs[1].last_step, Cell()});
  add("loss", runs[0].loss, runs[1].loss);
  add("validation_loss", x.validation_loss, y.validation_loss);
  add("validation_accuracy", x.validation_accuracy, y.validation_accuracy);
  add("test_loss", x.test_loss, y.test_loss);
  add("test_accuracy", x.test_accuracy, y.test_accuracy);
  if (runs[0].summary && runs[1].summary) {
    add("samples_per_second", x.samples_per_second, y.samples_per_second);
    add("step_time_median_ms", x.step_time_median_ms, y.step_time_median_ms);
    add("peak_rss_bytes", static_cast<double>(x.peak_rss_bytes), static_cast<double>(y.peak_rss_bytes));
  }
  const auto recipe_a = config::recipe_of(config::load(runs[0].path + "/config.toml"));
  const auto recipe_b = config::recipe_of(config::load(runs[1].path + "/config.toml"));
  for (size_t i = 0; i < std::min(recipe_a.size(), recipe_b.size()); ++i) {
    if (recipe_a[i] != recipe_b[i])
      table.add_row({recipe_a[i].first, recipe_a[i].second, recipe_b[i].second, Cell()});
  }
  fmt::print("{}", table.print(arguments.has("--json")));
  if (!arguments.has("--svg")) return 0;
  write_file_atomic(
      arguments.get("--svg", ""),
      observe::loss_chart_svg({{runs[0].path, observe::read_metrics(runs[0].path + "/metrics.jsonl")},
                               {runs[1].path, observe::read_metrics(runs[1].path + "/metrics.jsonl")}}));
  return 0;
}

int run_runs(const Arguments& arguments) {
  const auto& words = arguments.positional;
  const std::string verb = words.empty() ? "list" : words[0];
  const size_t operands = words.empty() ? 0 : words.size() - 1;
  const std::vector<std::string> known = {"list", "show", "compare"};
  const size_t wanted = verb == "list" ? 0 : verb == "show" ? 1 : 2;
  if (std::find(known.begin(), known.end(), verb) == known.end()) {
    throw Error(ErrorCode::kInvalidArgument, unknown_name_message("`furrow runs` command", verb, known));
  }
  if (operands != wanted) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`furrow runs {}` takes {} run{}, not {}\nusage: {}", verb, wanted,
                            wanted == 1 ? "" : "s", operands, usage(kRunsCommand)));
  }
  if (verb == "list") return list(arguments);
  return verb == "show" ? show(words[1], arguments) : compare(words[1], words[2], arguments);
}

constexpr Option kOptions[] = {
    {"--root", "DIR", "where the runs are (default: runs)"},
    {"--json", "", "print JSON"},
    {"--svg", "FILE", "compare: draw both loss curves into FILE"},
};

}  // namespace

const Command kRunsCommand{
    .name = "runs",
    .arguments = "[list | show RUN | compare A B]",
    .min_positional = 0,
    .max_positional = 3,
    .summary = "list, show and compare runs",
    .description =
        "  furrow runs\n"
        "  furrow runs show convnet-fashion-001\n"
        "  furrow runs compare convnet-fashion-001 convnet-fashion-002 --svg losses.svg\n"
        "\n"
        "RUN is a folder, or a name under --root.\n",
    .options = kOptions,
    .run = run_runs,
};

}  // namespace furrow::app
