// A trained network beside the one that learns from it, in one model.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "furrow/models/architectures.h"
#include "furrow/models/precision.h"

namespace furrow::models {

inline constexpr std::string_view kTeacherPrefix = "teacher.";  // of its units, parameters and statistics

// The network of an artefact's [model] table (storage/artefact.h) over this data.  `trained` is the shape of
// its input there: samples of text may have another length than those that it was trained on, but no more
// tokens than it has positions for, where it learned those.  It computes in what `precision` says, the run's,
// so that it costs no more than it must.  Error{invalid_argument}.
plan::ModelSpec describe_teacher(const std::string& table, const DataShape& data, const Shape& trained,
                                 const PrecisionPolicy& precision, std::span<const Architecture> extra = {});

// Appends the teacher as a chain of its own: every parameter frozen, in the precision that it has, run as in
// evaluation, and compared with by the student's head while training.  Error{invalid_argument}: either is
// more than one chain, or their outputs differ.
void add_teacher(plan::ModelSpec teacher, plan::ModelSpec* student);

bool is_teachers(std::string_view name);  // of a unit, a parameter or a statistic

}  // namespace furrow::models
