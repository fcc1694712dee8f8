// What turns raw samples into what a network reads, with the values that were fitted on the training data.
//
//   auto tokenizer = preprocess::load_as<preprocess::Tokenizer>(artefact.preprocessing);
//   auto ids = tokenizer->encode("To be");
//
// A fitted preprocessor is a value: immutable, thread safe, and equal to load(state()).
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::preprocess {

// Fitted values as text, sorted by key; what an artefact carries.  "kind" names the row of the table in
// preprocessor.cc; readers ignore keys that they do not know.
using State = std::map<std::string, std::string>;

class Preprocessor {
 public:
  virtual ~Preprocessor() = default;
  virtual State state() const = 0;
};

struct Kind {
  std::string_view name;     // State's "kind"
  std::string_view summary;  // one line
  std::unique_ptr<Preprocessor> (*load)(const State& state);
};

std::span<const Kind> kinds();

// The preprocessor that `state` describes.  Error{invalid_argument}: no "kind" or an unknown one.
// Error{data_loss}: a value is missing or malformed.
std::unique_ptr<Preprocessor> load(const State& state);

// load(), when only one interface will do.  Error{invalid_argument} when the state is of another family.
template <class T>
std::unique_ptr<T> load_as(const State& state) {
  std::unique_ptr<Preprocessor> loaded = load(state);
  if (dynamic_cast<T*>(loaded.get()) == nullptr) {
    throw Error(ErrorCode::kInvalidArgument, "preprocessing '" + state.at("kind") +
                                                 "' is not for this kind of data: use the data set kind that "
                                                 "the model was trained with");
  }
  return std::unique_ptr<T>(static_cast<T*>(loaded.release()));
}

// Value of `key`; Error{data_loss} when it is absent.
const std::string& state_value(const State& state, const std::string& key);

// A finite number written by std::to_chars; Error{data_loss} otherwise.
double state_number(const State& state, const std::string& key);
// One or more of them, separated by one space.
std::vector<double> state_numbers(const State& state, const std::string& key);

// A value as one line: \ and line ends are escaped; and back.  Error{data_loss} names `key`: an unknown
// escape.
std::string to_line(std::string_view value);
std::string from_line(std::string_view line, const std::string& key);

}  // namespace furrow::preprocess
