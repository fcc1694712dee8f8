#include "furrow/comm/ledger.h"

namespace furrow::comm {

LedgerRow& Ledger::row(const std::string& group, CollectiveKind kind, const std::string& label) {
  const std::lock_guard lock(mutex_);
  LedgerRow& row = rows_[Key(group, kind, label)];
  row.group = group;
  row.kind = kind;
  row.label = label;
  return row;
}

void Ledger::add(LedgerRow& row, const LedgerRow& cost) {
  const std::lock_guard lock(mutex_);
  row.algorithm = cost.algorithm;
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
    if (row.calls > 0) out.push_back(row);
  }
  return out;
}

void Ledger::clear() {
  const std::lock_guard lock(mutex_);
  for (auto& [key, row] : rows_) row = {.group = row.group, .kind = row.kind, .label = row.label};
}

}  // namespace furrow::comm
