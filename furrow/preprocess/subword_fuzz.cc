// The first byte picks: 'm' a list of merges, 's' a SentencePiece model, 'l' one of llama2.c, else a text for
// a small list.  What is no tokenizer is refused with Error{data_loss}; what is one saves as itself, and byte
// pairs give every text back.
#include "furrow/base/error.h"
#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/llama2c_tokenizer.h"
#include "furrow/preprocess/sentencepiece_tokenizer.h"

namespace {

using namespace furrow;
using namespace furrow::preprocess;

void round_trip(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  try {
    tokenizer.encode(text, ids);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
    return;
  }
  FURROW_CHECK(tokenizer.decode(ids) == text, "decode(encode(text)) is another text");
}

void as_merges(std::string_view text) {
  const BpeTokenizer tokenizer(text);
  round_trip(tokenizer, text);
  FURROW_CHECK(load(tokenizer.state())->state() == tokenizer.state(), "saves as something else");
}

void as_model(std::string_view bytes) {
  const SentencePieceTokenizer tokenizer{std::string(bytes)};
  std::vector<uint32_t> ids;
  tokenizer.encode("low lower\nlowest 7", ids);
  for (const uint32_t id : ids) FURROW_CHECK(id < tokenizer.vocabulary_size(), "an id outside");
  tokenizer.decode(ids);
  FURROW_CHECK(load(tokenizer.state())->state() == tokenizer.state(), "saves as something else");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (data[0] == 'm') {
      as_merges(rest);
    } else if (data[0] == 'l') {
      const Llama2cTokenizer tokenizer(rest);
      round_trip(tokenizer, "low lower\nlowest 7 \u00e9\t");
      FURROW_CHECK(load(tokenizer.state())->state() == tokenizer.state(), "saves as something else");
    } else if (data[0] == 's') {
      as_model(rest);
    } else {
      static const BpeTokenizer tokenizer("t h\nth e\n\u0120 the\no w\na a\naa aa\n\u0120 \u0120\n");
      round_trip(tokenizer, rest);
    }
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
