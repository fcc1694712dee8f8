// The algorithms behind a group's operations: one table, and the choice among its rows by kind, ranks, wires
// and bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "furrow/comm/collective.h"

namespace furrow::comm {

class Call;

// A set of operations.
class Kinds {
 public:
  constexpr Kinds(std::initializer_list<CollectiveKind> kinds) {
    for (const CollectiveKind kind : kinds) bits_ |= 1U << static_cast<unsigned>(kind);
  }
  static constexpr Kinds all() {
    Kinds every({});
    every.bits_ = (1U << kCollectiveKinds) - 1;
    return every;
  }
  constexpr bool has(CollectiveKind kind) const { return (bits_ >> static_cast<unsigned>(kind) & 1) != 0; }

 private:
  uint32_t bits_ = 0;
};

struct AlgorithmRow {
  std::string_view name;  // "ring"
  std::string_view summary;
  Kinds kinds;                          // that it can carry out
  std::string_view needs;               // of the group, for people; "" nothing
  bool (*shape)(const Call& call);      // the group has it; the same answer on every rank
  bool (*canonical)(const Call& call);  // adds in the canonical tree
  void (*run)(Call& call);

  bool fits(const Call& call) const;  // can carry out the call
};

// "direct" is the first and fits everything.
std::span<const AlgorithmRow> algorithm_rows();
int algorithm_index(std::string_view name);  // Error{invalid_argument} lists the known ones

// How the ranks of a group reach each other; algorithms have different prices on each.
enum class Wires : uint8_t {
  kMemory,  // all see each other's memory
  kMixed,   // some do
  kMessages,
  kLoopback,  // messages, though all are on one host
};
std::string_view to_string(Wires wires);  // "memory"

// Which algorithm up to which size.  A value.  Every rank of a world holds the same one.
class AlgorithmTable {
 public:
  struct Entry {
    CollectiveKind kind = CollectiveKind::kAllReduce;
    Wires wires = Wires::kMemory;
    int ranks = 0;      // for groups of up to so many ranks
    int64_t bytes = 0;  // and buffers (payload) of up to so many bytes
    int algorithm = 0;
  };

  // Where it was measured; both empty: nowhere (built in), or version 1 of the file.
  struct Machine {
    std::string processor, host;  // base/process.h: cpu_model(), host_name()
  };

  // What carried messages between ranks when they were measured, or carries them now.
  struct Link {
    int hosts = 1;
    int connections = 1;    // for data, between two ranks
    int64_t rate_mbit = 0;  // of the interface, as the system says; 0: it does not
    std::string interface;  // that rank 0's peers reach it at: "eth0"; empty: the system does not say
    bool emulated = false;  // comm.throttle; such a one is not measured
  };

  static AlgorithmTable built_in();
  // docs/formats/comm-tuning.md.  Error{invalid_argument} names the line.
  static AlgorithmTable parse(std::string_view text);
  std::string to_text() const;

  // Replaces what is said for (kind, wires, ranks); `entries` rise by bytes and the last covers all.
  void set(CollectiveKind kind, Wires wires, int ranks, std::vector<Entry> entries);

  // The row of the smallest entry that covers the call, among those that fit and, where `canonical` is asked
  // for, are.
  int choose(const Call& call, bool canonical) const;
  const std::vector<Entry>& entries() const { return entries_; }
  const Machine& machine() const { return machine_; }
  void set_machine(Machine machine) { machine_ = std::move(machine); }
  const std::map<Wires, Link>& links() const { return links_; }
  void set_link(Wires wires, Link link) { links_[wires] = std::move(link); }

  // Puts the built-in choice in the place of what was measured over another link than `now`, for wires that
  // ranks over `now` have.  What was left out and why, a line for each of the wires.
  std::vector<std::string> leave_out_other_links(const Link& now);

 private:
  void sort();
  void take_built_in(Wires wires);
  std::vector<Entry> entries_;  // by kind, wires, ranks, bytes
  Machine machine_;
  std::map<Wires, Link> links_;  // of wires that carry messages, where they were measured
};

}  // namespace furrow::comm
