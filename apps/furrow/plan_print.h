// What `furrow plan --print`, `--trace` and `--draw` show: one layout, that of [parallelism].
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "apps/furrow/command.h"
#include "apps/furrow/plan_model.h"
#include "furrow/config/config.h"
#include "furrow/plan/cost.h"
#include "furrow/plan/profile.h"

namespace furrow::app {

struct LayoutView {
  int ranks = 1;
  int rank = 0;                     // whose program it is
  std::string part;                 // of --print; "": the figures of a step
  std::string trace_path, drawing;  // of --trace and --draw; "": none
  bool as_json = false;
  plan::ProfiledDevice device = {};      // of a profile, beside whose memory the planned stands
  std::string machine = "this machine";  // that steps are simulated on ...
  // ... and its costs, asked for where one is, and once.
  std::function<std::shared_ptr<const plan::Costs>()> costs;
};

// Error{invalid_argument}: not a number within the bounds, which `least` is without the option.
int number_option(const Arguments& arguments, std::string_view option, int64_t least, int64_t most);

// As the options say, but for the machine.  Error{invalid_argument}: --rank is none of the ranks.
LayoutView layout_view(const Arguments& arguments, int ranks);

// Prints the part, and writes the files.  Without a part where a file is asked for, only that.  `model`: of
// the config.
void print_layout(const config::Config& config, const PlannedModel& model, const LayoutView& view);

}  // namespace furrow::app
