// tokenizer.json of Hugging Face's `tokenizers`: byte-level byte pairs alone.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "furrow/preprocess/hf_tokenizer.h"

namespace furrow::data {

// `json` is tokenizer.json; `config` is tokenizer_config.json, which names the tokens that begin and end
// texts, or empty: then <|endoftext|> ends them where there is such an added token.  Error{data_loss}: no
// such file; {unimplemented} names what it asks for and is not read: another model than byte pairs, a
// normalizer, a pattern, a setting.
preprocess::HfTokenizerSpec parse_tokenizer_json(std::string_view json, std::string_view config = {});

// The tokenizer whose tokenizer.json has these contents and lies at `path`, with the tokenizer_config.json
// beside it.  Errors as above, naming that file where it is its.
std::unique_ptr<preprocess::HfTokenizer> open_tokenizer_json(std::string_view json,
                                                             const std::filesystem::path& path);

// The two files of a tokenizer, as `tokenizers` and transformers read them.
std::string write_tokenizer_json(const preprocess::HfTokenizerSpec& spec);
std::string write_tokenizer_config(const preprocess::HfTokenizerSpec& spec);

}  // namespace furrow::data
