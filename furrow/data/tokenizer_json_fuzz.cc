// Any bytes as a tokenizer.json: refused by name, or a tokenizer that gives every text back, saves as itself
// and is written as a file that reads as it.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/tokenizer_json.h"

namespace {

using namespace furrow;

void check(const preprocess::HfTokenizer& tokenizer) {
  const std::string text = "low lower\r\n 12345 \xc3\xa9\xe2\x80\xa8 <|end|>x tool call I'Ll \t\n";
  std::vector<uint32_t> ids;
  tokenizer.encode(text, ids);
  FURROW_CHECK(tokenizer.decode(ids) == text, "decode(encode(text)) is another text");
  FURROW_CHECK(preprocess::load(tokenizer.state())->state() == tokenizer.state(), "saves as something else");
  const preprocess::HfTokenizer again(data::parse_tokenizer_json(
      data::write_tokenizer_json(tokenizer.spec()), data::write_tokenizer_config(tokenizer.spec())));
  FURROW_CHECK(again.state() == tokenizer.state(), "is written as something else");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  std::unique_ptr<preprocess::HfTokenizer> tokenizer;
  try {
    tokenizer = std::make_unique<preprocess::HfTokenizer>(data::parse_tokenizer_json(json));
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kUnimplemented,
                 "an error of another code");
    return 0;
  }
  check(*tokenizer);
  return 0;
}
