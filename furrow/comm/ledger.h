// Bytes on the wire, per operation, beside the least that they could be.
#pragma once

#include <cstdint>
#include <map>
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

// Thread safe.
class Ledger {
 public:
  // The row of a kind and label, to add to; it stays.
  LedgerRow& row(const std::string& group, CollectiveKind kind, const std::string& label);
  void add(LedgerRow& row, const LedgerRow& cost);
  std::vector<LedgerRow> rows() const;  // with calls; by group, kind, label
  void clear();                         // every total is 0 again

 private:
  using Key = std::tuple<std::string, CollectiveKind, std::string>;
  mutable std::mutex mutex_;
  std::map<Key, LedgerRow> rows_;
};

}  // namespace furrow::comm
