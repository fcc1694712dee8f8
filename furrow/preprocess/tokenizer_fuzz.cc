// Any bytes: as text they are refused as not UTF-8 or survive fit, encode and decode; as a saved alphabet
// they are refused or save as themselves.
#include "furrow/base/error.h"
#include "furrow/preprocess/tokenizer.h"

namespace {

using namespace furrow;
using namespace furrow::preprocess;

void round_trip(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  FURROW_CHECK(tokenizer.decode(ids) == text, "decode(encode(text)) is another text");
}

void as_text(std::string_view text) {
  round_trip(ByteTokenizer(), text);
  try {
    const CharTokenizer fitted = CharTokenizer::fit(text);
    round_trip(fitted, text);
    round_trip(*load_as<Tokenizer>(fitted.state()), text);
  } catch (const Error& error) {
    const bool expected =
        text.empty() ? error.code() == ErrorCode::kInvalidArgument : error.code() == ErrorCode::kDataLoss;
    FURROW_CHECK(expected, "an error of another code");
  }
}

void as_alphabet(std::string_view text) {
  const State state{{"kind", "char"}, {"alphabet", std::string(text)}};
  try {
    const State again = load(state)->state();
    FURROW_CHECK(load(again)->state() == again, "saves as something else");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  as_text(text);
  as_alphabet(text);
  return 0;
}
