// The functions behind the rows of transports.cc.  Each returns null where that transport cannot serve this
// rank (its ranks are not threads of one process, no peer on this host); a join that fails throws.
#pragma once

#include <memory>

#include "furrow/comm/transport.h"

namespace furrow::comm {

std::unique_ptr<Transport> make_inproc(const JoinContext& context);
std::unique_ptr<Transport> make_shm(const JoinContext& context);
std::unique_ptr<Transport> make_tcp(const JoinContext& context);

}  // namespace furrow::comm
