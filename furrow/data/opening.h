// What everything that opens a data set does in between: tell how far it is, end when it is cancelled.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "furrow/data/dataset.h"

namespace furrow::data {

// Error{cancelled} once `opening` is: "interrupted while <what>".  `kept` is the folder where the next call
// goes on; empty: nothing is left.  Thread safe.
void check_cancelled(const WhileOpening& opening, std::string_view what,
                     const std::filesystem::path& kept = {});

// For a listing of files, of which found() is called for each: tells how many, and checks, now and then.
class ListProgress {
 public:
  // `what` as of check_cancelled, a literal.
  ListProgress(const WhileOpening& opening, std::string_view what) : opening_(opening), what_(what) {}
  void found();

 private:
  const WhileOpening& opening_;
  const std::string_view what_;
  uint64_t files_ = 0;
};

}  // namespace furrow::data
