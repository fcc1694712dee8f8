// [job]: what a run is called and where it goes.
#pragma once

#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Job {
  std::string dump_folder;
  std::string description;
  bool print_config = false;

  template <class V>
  static void fields(V& v) {
    v("dump_folder", &Job::dump_folder,
      {.doc = "Folder of the run itself. Empty: runs/<config name>-NNN, the next free number."});
    v("description", &Job::description, {.doc = "A line for people, shown by `furrow runs show`."});
    v("print_config", &Job::print_config,
      {.doc = "Print the resolved configuration on standard error before training."});
  }
  friend bool operator==(const Job&, const Job&) = default;
};

}  // namespace furrow::config
