// What text in memory and packed text share: windows over a range of tokens.
#pragma once

#include <memory>
#include <string>
#include <string_view>

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
                                      const Windows& windows);

// The vocabulary of several texts together: options that differ in their paths.
Preprocessing fit_texts(std::span<const DatasetOptions> texts);

// A row of [data] tokenizer?
bool is_tokenizer_kind(std::string_view kind);
// What the file at [data] tokenizer_path holds, of a tokenizer that comes from one; nothing of others.  Error
// as when a text is opened.
Preprocessing tokenizer_from_file(const DatasetOptions& options);

// Rows of documents (documents.h), the first of which begins at token `begin`.  Error{invalid_argument} when
// none of them has two tokens.
std::unique_ptr<Source> document_rows(const NamedTokens& text, const char* split, int64_t begin,
                                      std::vector<int64_t> ends, int64_t context);

// Those of the training split.  Error{invalid_argument}.
Windows training_windows(const DatasetOptions& options);

// [training] seq_len, at least 1.  Error{invalid_argument}.
int64_t checked_context(const DatasetOptions& options);

}  // namespace furrow::data
