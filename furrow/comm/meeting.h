// How a rank finds the others: the store of rank 0, or the word to them that it will not come.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/secret.h"
#include "furrow/comm/store.h"
#include "furrow/comm/store_server.h"
#include "furrow/comm/world.h"
#include "furrow/config/comm.h"

namespace furrow::comm {

// This process as the others know it; `config`: what must be equal on every rank.
Member self_of(const World& world, const std::string& config);

bool all_over_tcp(const config::Comm& comm);

// Known before anybody is met: too few file descriptors, a throttle that is none.
std::optional<Error> reason_not_to_come(const World& world, const config::Comm& comm);

// Of rank 0, at the first port of the list that is free.  `refusal`: it only tells whoever comes.
std::unique_ptr<StoreServer> open_store(const World& world, const Secret& secret, const Member& self,
                                        int64_t silence_ms, const std::optional<Error>& refusal);

// The others hear why this rank does not come, or has failed before all had: of rank 0 whoever comes to
// `server`, of another rank 0, and through it all.  Returns once they have, at the deadline, when `cancel`
// (or null) says so, and after seconds where whoever started this process is gone, as nobody starts the
// others then.  A wait that lasts is logged.
void tell_whoever_comes(StoreServer& server, const Error& reason, int64_t deadline_ns,
                        const CancelToken* cancel = nullptr);
void tell_rank_zero(const World& world, const Secret& secret, const Member& self, const Error& reason,
                    int64_t deadline_ns, const CancelToken* cancel = nullptr);

}  // namespace furrow::comm
