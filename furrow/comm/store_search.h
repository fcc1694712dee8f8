// Where rank 0's store is: behind one of the ports at which it may listen.
#pragma once

#include <string>
#include <vector>

#include "furrow/comm/secret.h"
#include "furrow/comm/socket.h"

namespace furrow::comm {

struct StoreAddress {
  std::string address;     // of rank 0
  std::vector<int> ports;  // candidates, in order (rendezvous_ports)
};

// A connection to it, both ends of which hold the token.  Tries until there is one: ranks start in any order.
// Error{deadline_exceeded} says what was found at the ports instead.
Socket find_store(const StoreAddress& where, const Secret& secret, const Patience& patience);

}  // namespace furrow::comm
