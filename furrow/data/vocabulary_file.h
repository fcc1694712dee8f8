// The numbers of tokens as vocab.json (encoder.json) lists them, beside the merges that make them.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/hf_tokenizer.h"

namespace furrow::data {

// `json` maps each token to its number.  Error{data_loss} names the first that the merges and it do not agree
// on, with the line of the merges that makes it: a token that it lacks or that has another number, a number
// twice, or one below the number of tokens that none has.  Tokens behind those of the merges may follow.
void check_vocabulary(std::string_view json, const preprocess::BpeTokenizer& tokenizer);

// Those of encoder.json and vocab.json that lie beside the merges.  Error as above, with the file.
void check_vocabulary_beside(const std::filesystem::path& merges, const preprocess::BpeTokenizer& tokenizer);

// Where `json` numbers the tokens of the merges behind others, as SmolLM's does, each so much higher than
// GPT-2: those numbers, where what no merge makes is a special token, and texts are cut by GPT-2's pattern.
// Nothing where the first token has GPT-2's number.  Error{data_loss} as of check_vocabulary.
std::optional<preprocess::HfTokenizerSpec> renumbered(std::string_view json,
                                                      const preprocess::BpeTokenizer& tokenizer);

// The tokenizer of the merges in the file `path`, with the numbers of the encoder.json or vocab.json beside
// it. Errors as above, with the file; {unimplemented}: numbers that are not GPT-2's, and beside them a
// tokenizer.json or a tokenizer_config.json of another class than GPT-2's, which may cut texts otherwise.
std::unique_ptr<preprocess::Tokenizer> open_merges(std::string_view merges,
                                                   const std::filesystem::path& path);

}  // namespace furrow::data
