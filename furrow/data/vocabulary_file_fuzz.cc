// Any bytes as the vocab.json of a few merges: refused with Error{data_loss}, or it numbers every token
// alike, or those of the merges behind others.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/vocabulary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  static const preprocess::BpeTokenizer tokenizer("l o\nlo w\n");
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  try {
    data::check_vocabulary(json, tokenizer);
    FURROW_CHECK(json.size() > 259 * sizeof("\"a\":0"), "it cannot have all tokens");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  try {
    if (const auto spec = data::renumbered(json, tokenizer)) {
      const preprocess::HfTokenizer made(*spec);
      std::vector<uint32_t> ids;
      made.encode("low", ids);
      FURROW_CHECK(ids.size() == 1 && made.decode(ids) == "low", "another tokenizer");
    }
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  return 0;
}
