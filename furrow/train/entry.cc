#include "furrow/train/entry.h"

#include <string>

#include "furrow/base/version.h"

extern "C" __attribute__((visibility("default"))) const furrow::train::EntryPoints*
furrow_train_entry_points() {
  static const std::string version(furrow::furrow_version());
  static const furrow::train::EntryPoints points{version.c_str(), &furrow::train::train,
                                                 &furrow::train::evaluate, &furrow::train::profile};
  return &points;
}
