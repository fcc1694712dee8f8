// What was fitted on the data of a run, and which data they were, as a file of its folder: every rank and
// every resume reads data alike.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "furrow/data/dataset.h"

namespace furrow::data {

inline constexpr std::string_view kFittedFile = "preprocessing.json";  // docs/formats/run-folder.md

// One object, every value a text.  Parsing: Error{data_loss}.
std::string to_json(const Preprocessing& fitted);
Preprocessing parse_fitted(const std::string& json);

// Of a run's folder; nothing in one without the file, as earlier versions leave it.  Error{data_loss} names
// it.  Beside what was fitted on a table, the keys that decided it ("asked.data.target"), for check_kept.
std::optional<Preprocessing> read_fitted(const std::string& run_folder);
void write_fitted(const std::string& run_folder, const Dataset& dataset, const DatasetOptions& options);

// A line for each thing that the data of ranks, and of a start and the next one, must have alike: the sizes
// of the splits that training reads, the fields, and some samples.
std::string description(const Dataset& dataset);
std::string size_of(const Source* split);  // "60 samples", "none", as there

// What of the description was another one when write_fitted() kept it; nothing where it kept none, as earlier
// versions did.
std::optional<std::string> changed_since(const std::string& run_folder, const Dataset& dataset);

// Of images: `own` with pixels as they are, x / 255.
Preprocessing unnormalised(const Preprocessing& own);

// A run goes on with the values that it began with.  Error{failed_precondition} where the options ask for
// others: another tokenizer, also another file of it, pixels that are normalised or not, a table with other
// columns, another target or other rules for its texts.
void check_kept(const DatasetOptions& options, const Preprocessing& kept);

}  // namespace furrow::data
