// The door of libfurrow_torch.so: what a program that links no libtorch finds in it by dlopen and dlsym.
//
//   auto* find = reinterpret_cast<furrow::train::FindEntryPoints>(dlsym(library,
//   furrow::train::kEntrySymbol)); observe::Summary summary = find()->train(request);
//
// Both sides are of one build: `furrow_version` says so, and the caller compares it.
#pragma once

#include <string>

#include "furrow/train/session.h"

namespace furrow::train {

struct EntryPoints {
  const char* furrow_version;
  observe::Summary (*train)(const TrainRequest& request);
  EvalResult (*evaluate)(const std::string& run_folder, const std::string& split,
                         const config::Config& config);
  std::string (*profile)(const TrainRequest& request);
};

using FindEntryPoints = const EntryPoints* (*)();
inline constexpr const char* kEntrySymbol = "furrow_train_entry_points";

}  // namespace furrow::train

extern "C" const furrow::train::EntryPoints* furrow_train_entry_points();
