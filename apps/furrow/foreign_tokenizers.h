// Tokenizers beside the models of other programs: into the preprocessing of an artefact, and back.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/preprocess/preprocessor.h"

namespace furrow::app {

// The state of the tokenizer in `path`, a file or the folder of a model: tokenizer.json of byte
// pairs, merges.txt (vocab.bpe) of GPT-2, tokenizer.model of SentencePiece, any other file as one of
// llama2.c.  A vocab.json beside the merges must number the tokens as GPT-2 does.  Empty when a folder holds
// none.  Error{data_loss}, {unimplemented} name the file; Error{failed_precondition}: more tokens than the
// `vocabulary` of the model.
preprocess::State read_tokenizer(const std::string& path, int64_t vocabulary);

// The name of a file of a tokenizer in `folder` that read_tokenizer() does not take; "" when there is none.
std::string unread_tokenizer(const std::string& folder);

// Writes the tokenizer of an artefact into a folder of Hugging Face's: tokenizer.json and
// tokenizer_config.json, merges.txt and vocab.json, or tokenizer.model.  False when it is of another kind, or
// there is none.
bool write_tokenizer(const preprocess::State& preprocessing, const std::string& folder);

}  // namespace furrow::app
