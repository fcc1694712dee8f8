// The safetensors format (https://github.com/huggingface/safetensors): 8 bytes of header length, a JSON
// header, the data.
//
// Reading maps the file and believes nothing: the header's length, its JSON, every dtype, shape and pair of
// offsets, and that the tensors fill the data without overlap and without holes.  A writer's alignment is not
// asked for.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/array.h"
#include "furrow/base/file.h"

namespace furrow::storage {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t begin = 0;  // bytes, from the start of the data
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of the data
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;  // in the file
};

// Of a whole file in memory.  Error{data_loss} without the file's name; {unimplemented} for a dtype that
// furrow lacks.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file);

// A mapped file.  Immutable: any number of threads may read.  Move only.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);  // errors name the path

  const std::string& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const TensorInfo* find(std::string_view name) const;  // null when absent
  const TensorInfo& at(std::string_view name) const;    // Error{not_found} names the nearest
  std::span<const std::byte> bytes(
      const TensorInfo& tensor) const;  // maybe unaligned; as long as this object lives
  // The same by name.  Error{failed_precondition}: other dtype or shape.
  std::span<const std::byte> expect(std::string_view name, DType dtype, const Shape& shape) const;
  void read(std::string_view name, const ArrayView& out) const;  // a copy; errors as expect()
  // Lets go of the memory that a tensor's pages take; they are read again where they are asked for again.
  void release(const TensorInfo& tensor) const;
  std::span<const std::byte> file_bytes() const { return file_.bytes(); }

 private:
  MappedFile file_;
  SafetensorsHeader header_;
};

struct NamedArray {
  std::string name;
  ArrayView view;
};

// Writes a file of which the tensors are known before their data: those come one by one, in any order.
// Atomic and durable; the same tensors give the same bytes in whatever order they come (they lie sorted by
// falling element size, then by name).  The data starts at a multiple of 64.  Memory is that of the header.
class SafetensorsWriter {
 public:
  // Error{invalid_argument}: a name twice, or one that is not UTF-8.  `begin` and `end` are not asked for.
  SafetensorsWriter(const std::string& path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {});
  void write(std::string_view name, const ArrayView& view);  // REQUIRES: as announced, once
  void commit();                                             // REQUIRES: every tensor is written

 private:
  struct Place {
    TensorInfo tensor;
    bool written = false;
  };
  std::map<std::string, Place, std::less<>> places_;
  AtomicFile file_;
  uint64_t data_begin_ = 0;
};

// The same in one call.
void write_safetensors(const std::string& path, std::span<const NamedArray> arrays,
                       const std::map<std::string, std::string>& metadata = {});

// The header that write_safetensors writes, length included, and the order of the data.
std::string safetensors_header(std::vector<TensorInfo>& tensors,
                               const std::map<std::string, std::string>& metadata);

}  // namespace furrow::storage
