// A data set as a config describes it: opened once, split into train, validation and test.
//
// The validation split is carved from the training data: for images a keyed random `validation_fraction` of the
// training file (seeded by [debug] seed), for text the last part of the training text.  The test split comes from its
// own files, or for text from `test_fraction` at the very end; it may be absent.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "furrow/config/config.h"
#include "furrow/data/source.h"

namespace furrow::data {

enum class Split { kTrain, kValidation, kTest };

// Values fitted on the training split, or the vocabulary: written into the artefact, key -> text.
using Preprocessing = std::map<std::string, std::string>;

struct Dataset {
  std::unique_ptr<Source> train;       // never null
  std::unique_ptr<Source> validation;  // null when validation_fraction is 0
  std::unique_ptr<Source> test;        // null when there is none; opened at first read
  Preprocessing preprocessing;
};

// Errors name the file and the remedy; Error{data_loss} for damaged files, {not_found} for missing ones,
// {invalid_argument} for an empty set, a label out of range, a context longer than the text.
// `preprocessing`, when not null, holds values fitted earlier (evaluating a saved run) and is used instead of fitting.
Dataset open_dataset(const config::Config& config, const Preprocessing* preprocessing = nullptr);

}  // namespace furrow::data
