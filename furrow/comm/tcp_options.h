// What the tcp transport needs to know besides the roster.
#pragma once

#include <string>
#include <vector>

#include "furrow/comm/link.h"

namespace furrow::comm {

struct TcpOptions {
  std::string address = "127.0.0.1";  // of this rank, where its peers reach it
  int connections = 2;                // per pair of ranks, for data
  LinkSpec link = {};                 // emulated, where it is slower than the real one
  std::vector<int> peers = {};        // whom to reach; empty: every other rank.  Symmetric between ranks
};

}  // namespace furrow::comm
