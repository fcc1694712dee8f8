#include "furrow/preprocess/preprocessor.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <vector>

#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/hf_tokenizer.h"
#include "furrow/preprocess/image_normaliser.h"
#include "furrow/preprocess/llama2c_tokenizer.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"
#include "furrow/preprocess/table_encoder.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {
namespace {

constexpr Kind kKinds[] = {
    {"byte", "text as bytes, 256 tokens", &ByteTokenizer::load},
    {"char", "text as Unicode characters, one token each, fitted alphabet", &CharTokenizer::load},
    {"gpt2", "text as byte pairs, GPT-2's merges", &BpeTokenizer::load},
    {"hf", "text as byte pairs, as a tokenizer.json of Hugging Face has them", &HfTokenizer::load},
    {"image", "8-bit pixels to (x / 255 - mean) / std, fitted mean and std per channel",
     &ImageNormaliser::load},
    {"llama2c", "text as the pieces of a tokenizer of llama2.c", &Llama2cTokenizer::load},
    {"sentencepiece", "text as the pieces of a SentencePiece model", &SentencePieceTokenizer::load},
    {"table", "columns of numbers and categories, fitted moments and names", &TableEncoder::load},
};

}  // namespace

std::span<const Kind> kinds() { return kKinds; }

std::unique_ptr<Preprocessor> load(const State& state) {
  const std::string& name = state_value(state, "kind");
  std::vector<std::string> known;
  for (const Kind& kind : kKinds) {
    if (kind.name == name) return kind.load(state);
    known.emplace_back(kind.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("preprocessing", name, known));
}

const std::string& state_value(const State& state, const std::string& key) {
  const auto found = state.find(key);
  if (found == state.end()) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("fitted preprocessing has no '{}': save the model again", key));
  }
  return found->second;
}

namespace {

double parse_number(std::string_view text, const std::string& key) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("fitted preprocessing: '{}' is '{}', not a number", key, text));
  }
  return value;
}

}  // namespace

double state_number(const State& state, const std::string& key) {
  return parse_number(state_value(state, key), key);
}

std::vector<double> state_numbers(const State& state, const std::string& key) {
  std::vector<double> numbers;
  for (const std::string& text : split(state_value(state, key), ' '))
    numbers.push_back(parse_number(text, key));
  return numbers;
}

std::string to_line(std::string_view value) {
  std::string line;
  for (const char c : value) {
    if (c == '\\')
      line += "\\\\";
    else if (c == '\n')
      line += "\\n";
    else if (c == '\r')
      line += "\\r";
    else
      line += c;
  }
  return line;
}

std::string from_line(std::string_view line, const std::string& key) {
  std::string value;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\') {
      value += line[i];
      continue;
    }
    const char c = ++i < line.size() ? line[i] : ' ';
    if (c != '\\' && c != 'n' && c != 'r') {
      throw Error(ErrorCode::kDataLoss,
                  fmt::format("fitted preprocessing: '{}' has an unknown escape: save the model again", key));
    }
    value += c == 'n' ? '\n' : c == 'r' ? '\r' : '\\';
  }
  return value;
}

}  // namespace furrow::preprocess
