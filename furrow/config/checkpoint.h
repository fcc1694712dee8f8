// [checkpoint]: saving, keeping and resuming.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Checkpoint {
  bool enable = true;
  std::string folder = "checkpoints";
  int64_t interval = 500;
  int64_t keep_latest_k = 3;
  std::string async_mode = "disabled";
  int64_t load_step = -1;
  std::string initial_load_path;

  template <class V>
  static void fields(V& v) {
    constexpr std::string_view kOn = "checkpoint.enable=true";
    v("enable", &Checkpoint::enable,
      {.doc = "Save checkpoints, at every interval, at the end and when interrupted."});
    v("folder", &Checkpoint::folder, {.only_if = kOn, .doc = "Under the run folder, or an absolute path."});
    v("interval", &Checkpoint::interval,
      {.min = 0, .only_if = kOn, .doc = "Steps between saves. 0: at the end only."});
    v("keep_latest_k", &Checkpoint::keep_latest_k,
      {.min = 0, .only_if = kOn, .doc = "Older ones are removed once a newer one is durable. 0: keep all."});
    v("async_mode", &Checkpoint::async_mode,
      {.choices = "disabled|async",
       .only_if = kOn,
       .doc = "async: training goes on while a copy of the state is written."});
    v("load_step", &Checkpoint::load_step,
      {.min = -1, .doc = "Step to resume from. -1: the newest valid checkpoint."});
    v("initial_load_path", &Checkpoint::initial_load_path,
      {.effect = Effect::kRecipe,
       .doc =
           "Checkpoint folder or model/ folder whose parameters a new run starts from. Empty: random ones."});
  }
  friend bool operator==(const Checkpoint&, const Checkpoint&) = default;
};

}  // namespace furrow::config
