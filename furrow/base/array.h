// Arrays of bytes with a dtype and a shape: the one currency between data, storage, comm and engines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/memory.h"

namespace furrow {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

size_t dtype_size(DType dtype);                  // bytes per element
std::string_view to_string(DType dtype);         // "float32"
DType parse_dtype(std::string_view name);        // "float32" or safetensors' "F32"; Error{invalid_argument}
std::string_view safetensors_name(DType dtype);  // "F32"

// Sizes of the dims, outermost first.  -1 stands for "any" where a symbolic shape is allowed.
using Shape = std::vector<int64_t>;
int64_t num_elements(std::span<const int64_t> shape);  // 1 for a scalar; REQUIRES: no negative dim
std::string to_string(const Shape& shape);             // "[64, 1, 28, 28]"

struct Device {
  std::string type = "cpu";
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

// A dense, row-major array that somebody else owns.  Trivially copyable apart from its shape.
struct ArrayView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<std::byte> bytes;
  Device device;

  int64_t size() const { return num_elements(shape); }
  template <class T>
  std::span<T> as() const {
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

// Owns 64-byte-aligned memory counted under a MemoryKind.  Move only.  Contents are uninitialised.
class Array {
 public:
  Array() = default;
  Array(DType dtype, Shape shape, MemoryKind kind = MemoryKind::kOther);

  const ArrayView& view() const { return view_; }
  DType dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  int64_t size() const { return view_.size(); }
  std::span<std::byte> bytes() const { return view_.bytes; }
  template <class T>
  std::span<T> as() const {
    return view_.as<T>();
  }

 private:
  CountedBuffer buffer_;
  ArrayView view_;
};

}  // namespace furrow
