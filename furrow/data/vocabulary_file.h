// The numbers of GPT-2's tokens as vocab.json (encoder.json) lists them, beside the merges that make them.
#pragma once

#include <filesystem>
#include <string_view>

#include "furrow/preprocess/bpe_tokenizer.h"

namespace furrow::data {

// `json` maps each token to its number.  Error{data_loss} names the first that the merges and it do not agree
// on, with the line of the merges that makes it: a token that it lacks or that has another number, a number
// twice, or one below the number of tokens that none has.  Tokens behind those of the merges may follow.
void check_vocabulary(std::string_view json, const preprocess::BpeTokenizer& tokenizer);

// Those of encoder.json and vocab.json that lie beside the merges.  Error as above, with the file.
void check_vocabulary_beside(const std::filesystem::path& merges, const preprocess::BpeTokenizer& tokenizer);

}  // namespace furrow::data
