// What text in memory and packed text share: windows over a range of tokens.
#pragma once

#include <memory>
#include <string>

#include "furrow/data/dataset.h"
#include "furrow/data/text.h"

namespace furrow::data {

struct NamedTokens {
  std::string name;  // for messages
  std::shared_ptr<const TokenStore> tokens;
};

// Windows over [range.begin, range.end), or Error{invalid_argument} with what to change when there is not
// one.
std::unique_ptr<Source> token_windows(const NamedTokens& text, const char* split, TextSource::Range range,
                                      int64_t context, int64_t stride);

// The vocabulary of several texts together: options that differ in their paths.
Preprocessing fit_texts(std::span<const DatasetOptions> texts);

// [training] seq_len, at least 1.  Error{invalid_argument}.
int64_t checked_context(const DatasetOptions& options);

}  // namespace furrow::data
