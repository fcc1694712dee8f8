// Any bytes as a saved state, keys and values by turns with a unit separator (0x1f) between: refused, or it
// saves as something that loads as the same, and the tokens of a tokenizer decode.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/preprocess/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  preprocess::State state;
  const auto words = split(std::string_view(reinterpret_cast<const char*>(data), size), '\x1f');
  for (size_t i = 0; i + 1 < words.size(); i += 2) state[words[i]] = words[i + 1];
  try {
    preprocess::class_names(state);
    const std::unique_ptr<preprocess::Preprocessor> loaded = preprocess::load(state);
    const preprocess::State again = loaded->state();
    FURROW_CHECK(preprocess::load(again)->state() == again, "saves as something else");
    const auto* const tokenizer = dynamic_cast<const preprocess::Tokenizer*>(loaded.get());
    if (tokenizer == nullptr || tokenizer->vocabulary_size() == 0) return 0;
    tokenizer->decode(std::vector<uint32_t>{0, static_cast<uint32_t>(tokenizer->vocabulary_size() - 1)});
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
