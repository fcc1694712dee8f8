// Ranks that are threads of one process: what they share, and how they join.
#pragma once

#include <memory>
#include <vector>

#include "furrow/comm/communicator.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

struct Control;

// Control blocks of `size` ranks.  Outlives every transport that was made from it.
class InprocWorld {
 public:
  explicit InprocWorld(int size);
  ~InprocWorld();
  int size() const { return static_cast<int>(controls_.size()); }
  const std::vector<Control*>& controls() const { return controls_; }

 private:
  std::vector<Control*> controls_;
};

Roster inproc_roster(int rank, int size);  // this host and process for each

// A rank of a world of threads; every rank of the world makes one.
std::unique_ptr<Communicator> join_inproc(std::shared_ptr<InprocWorld> world, int rank,
                                          CommunicatorOptions options = {});

}  // namespace furrow::comm
