// Any bytes as a saved state, keys and values by turns with a unit separator (0x1f) between: refused, or it
// saves as something that loads as the same.
#include <cstddef>
#include <cstdint>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/preprocess/preprocessor.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  preprocess::State state;
  const auto words = split(std::string_view(reinterpret_cast<const char*>(data), size), '\x1f');
  for (size_t i = 0; i + 1 < words.size(); i += 2) state[words[i]] = words[i + 1];
  try {
    const preprocess::State again = preprocess::load(state)->state();
    FURROW_CHECK(preprocess::load(again)->state() == again, "saves as something else");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
