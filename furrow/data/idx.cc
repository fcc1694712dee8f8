#include "furrow/data/idx.h"

#include <fmt/format.h>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

constexpr size_t kMaxDims = 8;

struct IdxType {
  uint8_t code;
  DType dtype;
};
constexpr IdxType kTypes[] = {{0x08, DType::kU8},  {0x09, DType::kI8},  {0x0B, DType::kI16},
                              {0x0C, DType::kI32}, {0x0D, DType::kF32}, {0x0E, DType::kF64}};

[[noreturn]] void damaged(const std::string& what) {
  throw Error(ErrorCode::kDataLoss, what + ": the file is damaged or not IDX, fetch it again");
}

DType type_of(uint8_t code) {
  for (const IdxType& type : kTypes) {
    if (type.code == code) return type.dtype;
  }
  damaged(fmt::format("unknown IDX type 0x{:02x}", code));
}

uint32_t big_endian(std::span<const uint8_t> at) {
  return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]};
}

// Bytes that the dims ask for, or cap + 1 when they are more than `cap`.
uint64_t declared_bytes(const Idx& idx, uint64_t cap) {
  uint64_t bytes = dtype_size(idx.dtype);
  for (const int64_t dim : idx.shape) {
    if (dim == 0) return 0;
  }
  for (const int64_t dim : idx.shape) {
    if (bytes > cap / static_cast<uint64_t>(dim)) return cap + 1;
    bytes *= static_cast<uint64_t>(dim);
  }
  return bytes;
}

}  // namespace

Idx parse_idx_header(std::span<const uint8_t> file) {
  if (file.size() < 4) damaged(fmt::format("{} bytes are no IDX header", file.size()));
  if (file[0] != 0 || file[1] != 0) {
    damaged(fmt::format("wrong magic {:02x}{:02x}{:02x}{:02x}, IDX starts with 0000", file[0], file[1],
                        file[2], file[3]));
  }
  Idx idx;
  idx.dtype = type_of(file[2]);
  const size_t dims = file[3];
  if (dims == 0 || dims > kMaxDims) damaged(fmt::format("{} dims in an IDX header", dims));
  if (file.size() < 4 + 4 * dims) damaged("truncated IDX header");
  for (size_t d = 0; d < dims; ++d) idx.shape.push_back(big_endian(file.subspan(4 + 4 * d, 4)));
  return idx;
}

Idx parse_idx(std::span<const uint8_t> file) {
  Idx idx = parse_idx_header(file);
  idx.values = file.subspan(4 + 4 * idx.shape.size());
  const uint64_t declared = declared_bytes(idx, idx.values.size());
  if (declared != idx.values.size()) {
    damaged(fmt::format("dims {} of {} ask for {} bytes than the {} that follow the header",
                        to_string(idx.shape), to_string(idx.dtype),
                        declared > idx.values.size() ? "more" : "fewer", idx.values.size()));
  }
  return idx;
}

}  // namespace furrow::data
