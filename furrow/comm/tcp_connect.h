// How the tcp transport's connections come to be: every rank listens, publishes its address in the store,
// calls the ranks below it and is called by those above.  Nobody listens any more afterwards.
#pragma once

#include <vector>

#include "furrow/comm/socket.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

struct TcpSockets {
  Socket control;            // aborts and goodbyes
  std::vector<Socket> data;  // frames
};

// By rank; nothing for ranks that are not wanted.  REQUIRES: a rendezvous.  Error{deadline_exceeded} names
// who did not connect; Error{unavailable}, a rank that cannot be reached, and at which address.
std::vector<TcpSockets> connect_tcp(const JoinContext& context);

// The ranks that the context asks for, ascending.
std::vector<int> tcp_peers(const JoinContext& context);

}  // namespace furrow::comm
