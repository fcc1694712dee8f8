// The data of a run, opened on every rank of a world.  Torch-free.
#pragma once

#include <optional>
#include <string>

#include "furrow/base/process.h"
#include "furrow/comm/communicator.h"
#include "furrow/data/dataset.h"

namespace furrow::train {

// With the values `kept` by the run on rank 0 (a resume; Error{failed_precondition} where the options ask for
// others, data/fitted_values.h), else with those that rank 0 fits now: the others wait for them, however long
// that takes, and fit nothing.  What a table or a text keeps in memory is read by the first rank of each
// `host` and mapped by the others there.  Returns when every rank has read what it reads; where one fails,
// the others stop reading.  What is wrong with the data of a rank is everybody's error.  `communicator` is
// null in a world of one.
data::Dataset open_shared(comm::Communicator* communicator, const data::DatasetOptions& options,
                          const std::optional<data::Preprocessing>& kept,
                          const std::string& host = host_name());

// Every rank calls it with what it has opened.  Error{failed_precondition} on all of them where one has other
// data than rank 0: other splits or fields, or another sample among some that are read to compare.  A path is
// as good as the copy of the data that a host has there.
void require_same_data(comm::Communicator& communicator, const data::Dataset& dataset);

}  // namespace furrow::train
