#include "furrow/comm/ledger.h"

namespace furrow::comm {

void Ledger::add(const std::string& group, const Collective& c, const LedgerRow& cost) {
  const std::lock_guard lock(mutex_);
  LedgerRow& row = rows_[Key(group, c.kind, c.label)];
  row.calls += cost.calls;
  row.payload_bytes += cost.payload_bytes;
  row.wire_bytes += cost.wire_bytes;
  row.bound_bytes += cost.bound_bytes;
  row.busy_ns += cost.busy_ns;
}

std::vector<LedgerRow> Ledger::rows() const {
  const std::lock_guard lock(mutex_);
  std::vector<LedgerRow> out;
  for (const auto& [key, row] : rows_) {
    out.push_back(row);
    std::tie(out.back().group, out.back().kind, out.back().label) = key;
  }
  return out;
}

void Ledger::clear() {
  const std::lock_guard lock(mutex_);
  rows_.clear();
}

}  // namespace furrow::comm
