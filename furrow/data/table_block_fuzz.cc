// Any bytes are a block, which can be read whole, or are refused with Error{data_loss}.
#include <cstring>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  std::vector<std::byte> bytes(size);  // aligned
  if (size > 0) std::memcpy(bytes.data(), data, size);
  try {
    const data::Block block(bytes);
    double sum = 0;
    for (const data::BlockColumn& column : block.columns()) {
      const std::vector<double> numbers = data::value_numbers(column, '.');
      for (size_t row = 0; row < block.rows(); ++row) {
        if (column.has_codes()) {
          sum += static_cast<double>(column.text(column.code(row)).size()) + numbers[column.code(row)];
        } else {
          sum += column.number(row);
        }
      }
    }
    if (sum == 0.5) return 0;  // so that all is read
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  return 0;
}
