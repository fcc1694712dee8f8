#include "furrow/comm/ledger.h"

#include <atomic>

namespace furrow::comm {

// Totals with one writer and any number of readers: adding takes no lock.
class Ledger::Entry {
 public:
  Entry(std::string group, CollectiveKind kind, std::string label) {
    row_.group = std::move(group);
    row_.kind = kind;
    row_.label = std::move(label);
  }
  const std::string& label() const { return row_.label; }

  void add(const LedgerCost& cost) {
    algorithm_.store(cost.algorithm, std::memory_order_relaxed);
    increase(payload_bytes_, cost.payload_bytes);
    increase(wire_bytes_, cost.wire_bytes);
    increase(bound_bytes_, cost.bound_bytes);
    increase(busy_ns_, cost.busy_ns);
    increase(calls_, 1);
  }

  LedgerRow row() const {
    LedgerRow row = row_;
    row.algorithm = algorithm_.load(std::memory_order_relaxed);
    row.calls = calls_.load(std::memory_order_acquire);
    row.payload_bytes = payload_bytes_.load(std::memory_order_relaxed);
    row.wire_bytes = wire_bytes_.load(std::memory_order_relaxed);
    row.bound_bytes = bound_bytes_.load(std::memory_order_relaxed);
    row.busy_ns = busy_ns_.load(std::memory_order_relaxed);
    return row;
  }

  void clear() {
    for (auto* total : {&calls_, &payload_bytes_, &wire_bytes_, &bound_bytes_, &busy_ns_}) total->store(0);
  }

 private:
  static void increase(std::atomic<int64_t>& total, int64_t by) {
    total.store(total.load(std::memory_order_relaxed) + by, std::memory_order_release);
  }

  LedgerRow row_;  // names only
  std::atomic<int> algorithm_{0};
  std::atomic<int64_t> calls_{0}, payload_bytes_{0}, wire_bytes_{0}, bound_bytes_{0}, busy_ns_{0};
};

Ledger::Ledger() = default;
Ledger::~Ledger() = default;

Ledger::Entry& Ledger::entry(const std::string& group, CollectiveKind kind, const std::string& label) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Entry>& entry = entries_[std::tuple(group, kind, label)];
  if (!entry) entry = std::make_unique<Entry>(group, kind, label);
  return *entry;
}

void Ledger::add(Entry& entry, const LedgerCost& cost) { entry.add(cost); }

const std::string& Ledger::label(const Entry& entry) { return entry.label(); }

std::vector<LedgerRow> Ledger::rows() const {
  const std::lock_guard lock(mutex_);
  std::vector<LedgerRow> rows;
  for (const auto& [key, entry] : entries_) {
    LedgerRow row = entry->row();
    if (row.calls > 0) rows.push_back(std::move(row));
  }
  return rows;
}

void Ledger::clear() {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, entry] : entries_) entry->clear();
}

}  // namespace furrow::comm
