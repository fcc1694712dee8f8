// Lines "key value", as an artefact keeps them: whatever their kind, they are refused or load as what saves
// as itself, and a tokenizer's tokens decode.
#include <string>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/preprocess/tokenizer.h"

namespace {

using namespace furrow;
using namespace furrow::preprocess;

State parse(std::string_view text) {
  State state;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    const size_t space = std::min(line.find(' '), line.size());
    const std::string key(line.substr(0, space));
    state[key] = from_line(line.substr(std::min(space + 1, line.size())), key);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return state;
}

void check(const State& state) {
  class_names(state);
  const std::unique_ptr<Preprocessor> loaded = load(state);
  const State saved = loaded->state();
  FURROW_CHECK(load(saved)->state() == saved, "saves as something else");
  const auto* const tokenizer = dynamic_cast<const Tokenizer*>(loaded.get());
  if (tokenizer == nullptr || tokenizer->vocabulary_size() == 0) return;
  const std::vector<uint32_t> ids = {0, static_cast<uint32_t>(tokenizer->vocabulary_size() - 1)};
  tokenizer->decode(ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    check(parse({reinterpret_cast<const char*>(data), size}));
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
