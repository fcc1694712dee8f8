// Any bytes either parse or are refused with Error{data_loss}; what parses has exactly the bytes that its
// dims ask for.
#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/data/idx.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  try {
    const data::Idx idx = data::parse_idx({data, size});
    const bool empty = std::find(idx.shape.begin(), idx.shape.end(), 0) != idx.shape.end();
    const size_t elements = empty ? 0 : static_cast<size_t>(num_elements(idx.shape));
    FURROW_CHECK(idx.values.size() == elements * dtype_size(idx.dtype), "another number of bytes");
    FURROW_CHECK(data::parse_idx_header({data, size}).shape == idx.shape, "another shape");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  return 0;
}
