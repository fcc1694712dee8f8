#include "apps/furrow/plan_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "apps/furrow/plan_choice.h"
#include "apps/furrow/plan_cluster.h"
#include "apps/furrow/plan_model.h"
#include "apps/furrow/plan_print.h"
#include "apps/furrow/plan_scale.h"
#include "apps/furrow/plan_tables.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/train/layout_choice.h"
#include "furrow/train/recipe.h"

namespace furrow::app {
namespace {

// "90s", "30m", "12h", "2d".
double seconds_of(const std::string& text) {
  double number = 0;
  const std::string_view units = "smhd";
  constexpr double kSeconds[] = {1, 60, 3600, 86400};
  const size_t unit = text.empty() ? std::string_view::npos : units.find(text.back());
  if (unit == std::string_view::npos || !parse_double(text.substr(0, text.size() - 1), number) ||
      number <= 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("--deadline {}: it must be a time above 0 with its unit, as in 90s, 30m, 12h or 2d",
                    text));
  }
  return number * kSeconds[unit];
}

class Planner {
 public:
  Planner(const config::Config& config, const Arguments& arguments)
      : config_(config),
        arguments_(arguments),
        model_(planned_model(config)),
        request_(train::search_request(config, model_.spec)) {
    planned_ = cluster_named(arguments.get("--cluster", "local"), ranks(), config);
    if (!planned_.local && arguments.has("--nproc")) take_part(ranks());
    request_.allow_recipe_change = arguments.has("--allow-recipe-change");
    if (request_.allow_recipe_change) offer_bfloat16();
    if (arguments.has("--without")) request_.without = split(arguments.get("--without", ""), ',');
    goal_.objective =
        arguments.get("--objective", "time") == "cost" ? plan::Objective::kCost : plan::Objective::kTime;
    if (arguments.has("--deadline")) goal_.deadline_s = seconds_of(arguments.get("--deadline", ""));
    goal_.steps = train::total_steps(config.training, model_.train_samples);
    // Epochs are steps of the batch of one rank where the batch follows the layout.
    goal_.global_batch =
        config.training.epochs > 0 ? config::global_batch_size(config.training) : request_.batch.global_batch;
    request_.objective = goal_.objective;
    check();
  }

  int run() {
    if (arguments_.get("--layout", "best") == "configured") return show_configured();
    if (arguments_.has("--scale")) return run_scale(scale_sizes(arguments_.get("--scale", "")));
    if (goal_.objective == plan::Objective::kCost || goal_.deadline_s > 0) return run_scale(host_sizes());
    costs_ = costs_of(planned_);
    request_.costs = costs_.get();
    std::string why;
    request_.configured = configured_choice(config_, model_.spec, *costs_, &why);
    const plan::SearchResult result = plan::search(request_);
    if (!prints_layout()) print(result, why);
    plan::require_fit(result);
    take(result.candidates[0].choice, planned_);
    return 0;
  }

 private:
  // Not float16, whose scale of the loss is a choice of its own.
  void offer_bfloat16() {
    if (config_.training.mixed_precision_param != "float32") return;
    config::Config changed = config_;
    changed.training.mixed_precision_param = "bfloat16";
    in_bfloat16_ = planned_spec(changed, model_.shape);
    const auto computes = [](const plan::Unit& unit) { return unit.compute == DType::kBF16; };
    if (std::ranges::none_of(in_bfloat16_.units, computes)) return;  // units of float32 alone
    request_.precisions = {{DType::kBF16, &in_bfloat16_}};
  }

  int ranks() const {
    return arguments_.has("--nproc") ? number_option(arguments_, "--nproc", 1, 1 << 16) : core_count();
  }

  void take_part(int devices) {
    if (devices > planned_.cluster.world()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--nproc {}: {} has {} devices; change its hosts, or see --scale 1..{}",
                              devices, planned_.cluster.name, planned_.cluster.world(), devices));
    }
    planned_ = part_of(planned_, devices);
  }

  void check() const {
    const plan::Price& price = planned_.cluster.price;
    if (goal_.objective == plan::Objective::kCost && price.on_demand_per_host_hour == 0 &&
        price.spot_per_host_hour == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--objective cost: {} has no price; give on_demand_per_host_hour or "
                              "spot_per_host_hour in its [price]",
                              planned_.cluster.name));
    }
    if (goal_.deadline_s > 0 && goal_.steps == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "--deadline: how long a run takes is unknown without its data; set [training] steps");
    }
  }

  // One host, two, four, ... and all.
  std::vector<int> host_sizes() const {
    std::vector<int> sizes;
    for (int hosts = 1; hosts < planned_.cluster.hosts; hosts *= 2)
      sizes.push_back(hosts * planned_.cluster.devices);
    sizes.push_back(planned_.cluster.world());
    return sizes;
  }

  int run_scale(const std::vector<int>& sizes) {
    request_.keep = 2;
    const std::vector<ScalePoint> points = scale(request_, planned_, sizes);
    const int pick = picked(points, goal_);
    const Table table = scale_table(points, goal_);
    if (prints_layout()) {
      log_info(scale_line(points, goal_));
    } else if (arguments_.has("--json")) {
      fmt::print("{}", table.json());
    } else {
      header(sources_of(points));
      fmt::print("{}\n{}\n", table.text(), scale_line(points, goal_));
    }
    if (pick < 0) throw Error(ErrorCode::kResourceExhausted, scale_line(points, goal_));
    take(points[pick].best->choice, part_of(planned_, points[pick].devices()));
    return 0;
  }

  void header(const std::string& source) const {
    const plan::Cluster& cluster = planned_.cluster;
    fmt::print("{}: {} x {} {} of {}; {} of {} parameters, {} costs\n\n", cluster.name, cluster.hosts,
               cluster.devices, cluster.device.name,
               format_bytes(static_cast<uint64_t>(cluster.device.memory_bytes)), model_.spec.architecture,
               format_count(model_.spec.parameter_count()), source);
  }

  void print(const plan::SearchResult& result, const std::string& why) const {
    if (arguments_.has("--json")) {
      fmt::print("{}", search_json(request_, result));
      return;
    }
    header(costs_->source());
    const std::vector<plan::Candidate> rows = shown(result);
    fmt::print("{}", candidates_table(rows, planned_.cluster.price.currency).text());
    if (request_.batch.global_batch <= 0 && planned_.cluster.world() > 1) {
      fmt::print(
          "a step is {} samples of each data rank, so layouts with more of them train another recipe; set "
          "[training] global_batch_size to compare like with like\n",
          request_.batch.local_batch);
    }
    if (result.candidates.size() > rows.size())
      fmt::print("and {} more; --json has them all\n", result.candidates.size() - rows.size());
    if (!result.refused.empty()) fmt::print("\n{}", refused_table(result.refused).text());
    if (!why.empty()) fmt::print("\nthe layout of the config is for another number of ranks: {}\n", why);
    if (arguments_.has("--explain")) fmt::print("\n{}", passes_table(result.passes).text());
  }

  // The best dozen, and the configured one wherever it stands.
  static std::vector<plan::Candidate> shown(const plan::SearchResult& result) {
    constexpr size_t kRows = 12;
    std::vector<plan::Candidate> rows;
    for (const plan::Candidate& candidate : result.candidates) {
      if (rows.size() < kRows || candidate.configured) rows.push_back(candidate);
    }
    return rows;
  }

  // What stdout is for: a part of one layout, or the tables of the search.
  bool prints_layout() const { return arguments_.has("--print"); }

  void take(const plan::Choice& choice, const PlannedCluster& cluster) const {
    write(choice);
    if (!prints_layout() && !arguments_.has("--trace") && !arguments_.has("--draw")) return;
    log_info(fmt::format("the best of the search: {}", plan::to_text(choice)));
    show(planned_config(config_, model_.spec, choice), choice.layout.world(), cluster);
  }

  void show(const config::Config& config, int ranks, const PlannedCluster& cluster) const {
    PlannedModel model = model_;
    model.spec = planned_spec(config, model.shape);
    LayoutView view = layout_view(arguments_, ranks);
    if (!cluster.local) view.machine = cluster.cluster.name;
    view.costs = [this, &cluster]() -> std::shared_ptr<const plan::Costs> {
      if (&cluster == &planned_ && costs_) return costs_;
      return costs_of(cluster);
    };
    print_layout(config, model, view);
  }

  int show_configured() const {
    for (const std::string_view option : {"--scale", "--objective", "--deadline", "--write", "--explain",
                                          "--without", "--allow-recipe-change"}) {
      if (!arguments_.has(option)) continue;
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} is about a search, and --layout configured makes none: leave one of them away",
                      option));
    }
    show(config_, planned_.cluster.world(), planned_);
    return 0;
  }

  void write(const plan::Choice& choice) const {
    if (!arguments_.has("--write")) return;
    const std::string file = arguments_.get("--write", "");
    write_file_atomic(file, planned_toml(config_, model_.spec, choice));
    fmt::print(stderr, "wrote {}: furrow train {} --nproc {}\n", file, file, choice.layout.world());
    const int64_t given = request_.batch.global_batch, taken = choice.batch.global_batch;
    const int64_t steps = config_.training.steps;
    if (given == taken || steps == 0) return;
    const double times = static_cast<double>(given) / static_cast<double>(taken);
    fmt::print(
        stderr,
        "its [training] steps are still {}: of global_batch_size {} instead of {}, {} see as many samples\n",
        steps, taken, given, std::llround(std::ceil(static_cast<double>(steps) * times)));
  }

  const config::Config& config_;
  const Arguments& arguments_;
  PlannedModel model_;
  plan::ModelSpec in_bfloat16_;  // where that is offered
  plan::SearchRequest request_;
  PlannedCluster planned_;
  std::shared_ptr<const plan::Costs> costs_;
  Goal goal_;
};

}  // namespace

int run_plan_search(const config::Config& config, const Arguments& arguments) {
  return Planner(config, arguments).run();
}

}  // namespace furrow::app
