// Short texts between the ranks of a group: what one of them decided, what each of them did.  An error on the
// way is everybody's error.  Every rank of the group calls these at the same point.  Torch-free.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "furrow/comm/group.h"

namespace furrow::train {

// What `make` returns on rank 0, on every rank.  An Error it throws is thrown on every rank, elsewhere with
// "rank 0" in front.
std::string text_of_first(comm::Group group, const std::string& label,
                          const std::function<std::string()>& make);

// What `make` returns on each rank, by rank, on every rank.  When it throws anywhere, every rank throws the
// error of the lowest such rank; the others name that rank.
std::vector<std::string> texts_of_all(comm::Group group, const std::string& label,
                                      const std::function<std::string()>& make);

// The same for texts that rank 0 alone needs: it gets them all, the others nothing but their errors.
std::vector<std::string> texts_to_first(comm::Group group, const std::string& label,
                                        const std::function<std::string()>& make);

// For what takes longer than an operation may: returns once every rank is `done`, a function that waits for
// that no longer than a turn.  A rank that is not hears of a failure elsewhere at the end of its turn.
inline constexpr std::chrono::milliseconds kTurn{400};
void wait_in_turns(comm::Group group, const std::string& label, const std::function<bool()>& done);

}  // namespace furrow::train
