// How the tcp transport's connections come to be: every rank listens, publishes its address in the store,
// calls the ranks below it and is called by those above.  Nobody listens any more afterwards.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "furrow/comm/handshake.h"
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

// Whether rank `own` waits for this call: a higher rank among `peers`, one of the pair's `connections` or its
// control.
bool is_awaited(const Introduction& introduction, int own, const std::vector<int>& peers, int connections);

// Where a rank can be called, as it stands in the store: "port address".
std::string to_text(const Endpoint& endpoint);
Endpoint parse_endpoint(std::string_view text);  // Error{data_loss}

// The ranks that the context asks for, ascending.
std::vector<int> tcp_peers(const JoinContext& context);

}  // namespace furrow::comm
