// Text files as tokens: read in parts, plain or .gz, which are tokenised side by side, so that of the files
// themselves little is in memory at once.  What comes out is what the tokenizer makes of each file as a
// whole, whatever the parts, the threads and the interruptions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/data/text.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::data {

// The files of `options`, in the order of the text: those that text_files names, else `path`, or, where that
// is a folder, every .txt and .txt.gz in it and below, by name.  Error{not_found}, {invalid_argument}.
std::vector<std::filesystem::path> text_files(const DatasetOptions& options);

// The characters of all files, ascending.  Error{invalid_argument}: there are none; {data_loss}: a file is
// not UTF-8; {cancelled}.
std::set<char32_t> alphabet_of(std::span<const std::filesystem::path> files, const DatasetOptions& options);

struct TokenisedText {
  std::shared_ptr<const TokenStore> tokens;
  std::vector<int64_t> ends;  // of documents; empty: the text is one stream
  std::string place = {};     // where other processes can map all of it; empty: nowhere
};

// The files one after another; with a document separator the end of a file ends a document.  Mapped, not
// read, where an opening is told where another process has them.  Errors as above, and of the tokenizer, with
// the file and the place.
TokenisedText tokenise(std::span<const std::filesystem::path> files, const preprocess::Tokenizer& tokenizer,
                       const DatasetOptions& options);

}  // namespace furrow::data
