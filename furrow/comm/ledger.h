// Bytes on the wire, per operation, beside the least that they could be.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "furrow/comm/collective.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

// Totals of one (group, kind, label) since the communicator was made.
struct LedgerRow {
  std::string group;  // "dp_shard"
  CollectiveKind kind = CollectiveKind::kBarrier;
  std::string label;
  int algorithm = 0;  // of the last call: row of algorithm_rows()
  int64_t calls = 0;
  int64_t payload_bytes = 0;  // the size S of the buffers: e elements, or all slices
  int64_t wire_bytes = 0;   // bytes that crossed to this rank (reduce, send: from this rank), frames included
  int64_t bound_bytes = 0;  // bound_bytes() of the calls
  int64_t busy_ns = 0;      // from start to end of each, waiting for peers included
};

// What one call adds to its row.
struct LedgerCost {
  int algorithm = 0;
  int64_t payload_bytes = 0, wire_bytes = 0, bound_bytes = 0, busy_ns = 0;
};

// Thread safe; add() from one thread at a time.
class Ledger {
 public:
  class Entry;
  Ledger();
  ~Ledger();

  // The row of a kind and label, to add to; it stays.
  Entry& entry(const std::string& group, CollectiveKind kind, const std::string& label);
  static void add(Entry& entry, const LedgerCost& cost);
  static const std::string& label(const Entry& entry);

  std::vector<LedgerRow> rows() const;  // those with calls; by group, kind, label
  void clear();                         // every total is 0 again; between operations

 private:
  mutable std::mutex mutex_;
  std::map<std::tuple<std::string, CollectiveKind, std::string>, std::unique_ptr<Entry>> entries_;
};

}  // namespace furrow::comm
