// What a run ended with, whatever its layout: what must be equal between one process and several ranks.
// Needs the modules observe and storage.
#pragma once

#include <map>
#include <string>

namespace furrow::testing {

struct Outcome {
  std::string weights;                         // bytes of model/model.safetensors
  std::map<std::string, std::string> tensors;  // of the newest checkpoint: name -> bytes; optimizer state too
  std::string run_state;                       // step, data position, losses, best
  std::string metrics;                         // without those of the machine; hexadecimal, exact
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome outcome_of(const std::string& run_folder);

// "" when equal, else what differs first.
std::string difference(const Outcome& a, const Outcome& b);

}  // namespace furrow::testing
