// Any bytes are either refused with Error{data_loss} or the state of a run that survives its own text form.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "furrow/base/error.h"
#include "furrow/train/run_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const train::RunState state = train::parse_run_state(text);
    const std::string written = train::to_text(state);
    FURROW_CHECK(train::to_text(train::parse_run_state(written)) == written, "another state");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, error.what());
  }
  return 0;
}
