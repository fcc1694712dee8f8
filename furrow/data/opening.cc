#include "furrow/data/opening.h"

#include <fmt/format.h>

#include "furrow/base/error.h"

namespace furrow::data {

void check_cancelled(const WhileOpening& opening, std::string_view what, const std::filesystem::path& kept) {
  if (opening.cancel == nullptr || !opening.cancel->cancelled()) return;
  throw Error(ErrorCode::kCancelled,
              kept.empty() ? fmt::format("interrupted while {}: nothing is left behind", what)
                           : fmt::format("interrupted while {}: {} keeps what is done, the same command goes "
                                         "on there",
                                         what, kept.string()));
}

void ListProgress::found() {
  constexpr uint64_t kBetween = 256;
  if (++files_ % kBetween != 0) return;
  check_cancelled(opening_, what_);
  if (opening_.listed) opening_.listed(files_);
}

}  // namespace furrow::data
