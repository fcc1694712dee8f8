// [metrics]: what is logged and drawn.
#pragma once

#include <cstdint>

#include "furrow/config/field.h"

namespace furrow::config {

struct Metrics {
  int64_t log_freq = 10;
  bool enable_tensorboard = false;
  bool disable_color_printing = false;
  bool enable_plots = true;

  template <class V>
  static void fields(V& v) {
    v("log_freq", &Metrics::log_freq,
      {.min = 1, .doc = "Steps between lines of metrics.jsonl and of the log."});
    v("enable_tensorboard", &Metrics::enable_tensorboard,
      {.doc = "Write TensorBoard event files into the run folder."});
    v("disable_color_printing", &Metrics::disable_color_printing, {.doc = "No colours on the terminal."});
    v("enable_plots", &Metrics::enable_plots,
      {.doc = "Draw into the run folder at the end: the loss curves, a confusion matrix of a classifier (of "
              "images "
              "or of rows of a table) and samples of images with its answers, text that a language model "
              "writes, "
              "samples that a GAN makes."});
  }
  friend bool operator==(const Metrics&, const Metrics&) = default;
};

}  // namespace furrow::config
