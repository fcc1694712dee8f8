#include "furrow/comm/transport.h"

#include <fmt/format.h>

#include <cstring>

namespace furrow::comm {
namespace {

std::string_view label_of(const Envelope& e) { return {e.label, strnlen(e.label, sizeof(e.label))}; }

}  // namespace

std::string describe(const Envelope& e) {
  if (e.kind >= kCollectiveKinds || e.dtype > static_cast<uint8_t>(DType::kBool) ||
      e.reduction >= kReductions)
    return "a damaged message";
  const auto kind = static_cast<CollectiveKind>(e.kind);
  std::string text(to_string(kind));
  if (const std::string_view label = label_of(e); !label.empty()) text += fmt::format(" '{}'", label);
  text += fmt::format(" #{}", e.sequence);
  if (kind == CollectiveKind::kBarrier) return text;
  text += fmt::format(" of {} {}", e.elements, to_string(static_cast<DType>(e.dtype)));
  if (kind == CollectiveKind::kAllReduce || kind == CollectiveKind::kReduceScatter ||
      kind == CollectiveKind::kReduce)
    text += fmt::format(" ({})", to_string(static_cast<Reduction>(e.reduction)));
  if (kind == CollectiveKind::kBroadcast || kind == CollectiveKind::kReduce)
    text += fmt::format(" with root {}", e.root);
  return text;
}

Error mismatch_error(int rank, const Envelope& mine, int peer, const Envelope& theirs) {
  std::string mine_text = describe(mine), theirs_text = describe(theirs);
  if (mine_text == theirs_text) {
    mine_text +=
        fmt::format(" (algorithm {}, step {}, slices {:08x})", mine.algorithm, mine.step, mine.counts_hash);
    theirs_text += fmt::format(" (algorithm {}, step {}, slices {:08x})", theirs.algorithm, theirs.step,
                               theirs.counts_hash);
  }
  return Error(
      ErrorCode::kFailedPrecondition,
      fmt::format("ranks of one group run different operations: rank {} runs {}, rank {} runs {}: every rank "
                  "makes the same calls in the same order, from the same configuration and version",
                  rank, mine_text, peer, theirs_text));
}

std::string describe(const Roster& roster, int rank) {
  if (rank < 0 || rank >= roster.size()) return fmt::format("rank {}", rank);
  const RankInfo& info = roster.ranks[static_cast<size_t>(rank)];
  return fmt::format("rank {} (host {}, pid {})", rank, info.host, info.pid);
}

Error told_by(const Roster& roster, int rank, const Error& reason) {
  const std::string_view text = reason.what();
  for (int r = 0; r < roster.size(); ++r) {
    if (text.find(describe(roster, r)) != std::string_view::npos) return reason;
  }
  return reason.with_context(describe(roster, rank));
}

}  // namespace furrow::comm
