#include "furrow/storage/safetensors.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/storage/json.h"

namespace furrow::storage {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr uint64_t kAlignment = 64;
constexpr std::string_view kMetadata = "__metadata__";

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

uint64_t read_length(std::span<const std::byte> file) {
  if (file.size() < kLengthBytes)
    damaged(fmt::format("{} bytes are too few for a safetensors file", file.size()));
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<uint64_t>(file[i]) << (8 * i);
  const uint64_t room = std::min(kMaxHeader, file.size() - kLengthBytes);
  if (length > room) {
    damaged(fmt::format("the header says it is {} bytes long, but the file has room for {}", length, room));
  }
  return length;
}

DType read_dtype(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (safetensors_name(dtype) == name) return dtype;
  }
  throw Error(ErrorCode::kUnimplemented, fmt::format("dtype '{}' is not one that furrow reads", name));
}

// Product of the dims and the element size, refused where it overflows.
uint64_t byte_size(DType dtype, const Shape& shape) {
  uint64_t bytes = dtype_size(dtype);
  bool overflow = false;
  for (const int64_t dim : shape) {
    if (dim < 0) damaged(fmt::format("shape {} has a negative dim", to_string(shape)));
    overflow = overflow || __builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes);
  }
  if (overflow) damaged(fmt::format("shape {} is larger than any file", to_string(shape)));
  return bytes;
}

TensorInfo read_tensor(const std::string& name, const Json& entry) {
  TensorInfo tensor{
      .name = name, .dtype = read_dtype(entry.at("dtype").string()), .shape = entry.at("shape").integers()};
  const Json::List& offsets = entry.at("data_offsets").list();
  if (offsets.size() != 2) damaged("data_offsets must be two numbers");
  if (entry.object().size() != 3) damaged("an entry holds dtype, shape and data_offsets, nothing else");
  tensor.begin = offsets[0].unsigned_integer();
  tensor.end = offsets[1].unsigned_integer();
  const uint64_t bytes = byte_size(tensor.dtype, tensor.shape);
  if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes) {
    damaged(fmt::format("shape {} of {} needs {} bytes, data_offsets are {} and {}", to_string(tensor.shape),
                        to_string(tensor.dtype), bytes, tensor.begin, tensor.end));
  }
  return tensor;
}

// Sorted, without overlap, without holes, up to the end of the file.
void check_coverage(std::vector<TensorInfo>& tensors, uint64_t data_bytes) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t reached = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin < reached) damaged(fmt::format("tensor '{}' overlaps the one before it", tensor.name));
    if (tensor.begin > reached) {
      damaged(fmt::format("{} bytes before tensor '{}' belong to none", tensor.begin - reached, tensor.name));
    }
    reached = tensor.end;
  }
  if (reached > data_bytes) {
    damaged(
        fmt::format("the file is cut short: tensors need {} bytes of data, it has {}", reached, data_bytes));
  }
  if (reached < data_bytes)
    damaged(fmt::format("{} bytes at the end belong to no tensor", data_bytes - reached));
}

void read_metadata(const Json& entry, std::map<std::string, std::string>& metadata) {
  for (const auto& [key, value] : entry.object()) metadata[key] = value.string();
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file) {
  const uint64_t length = read_length(file);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{') damaged("the header does not start with {");
  const Json root = parse_json(text);
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + length;
  for (const auto& [name, entry] : root.object()) {
    try {
      if (name == kMetadata) {
        read_metadata(entry, header.metadata);
      } else {
        header.tensors.push_back(read_tensor(name, entry));
      }
    } catch (const Error& error) {
      throw error.with_context(fmt::format("tensor '{}'", name));
    }
  }
  check_coverage(header.tensors, file.size() - header.data_begin);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  try {
    header_ = parse_safetensors(file_.bytes());
  } catch (const Error& error) {
    throw error.with_context(path);
  }
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = std::find_if(header_.tensors.begin(), header_.tensors.end(),
                                  [&](const TensorInfo& tensor) { return tensor.name == name; });
  return found == header_.tensors.end() ? nullptr : &*found;
}

const TensorInfo& SafetensorsFile::at(std::string_view name) const {
  if (const TensorInfo* tensor = find(name)) return *tensor;
  std::vector<std::string> known;
  for (const TensorInfo& tensor : header_.tensors) known.push_back(tensor.name);
  throw Error(ErrorCode::kNotFound,
              fmt::format("{}: {}", path(), unknown_name_message("tensor", name, known)));
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return file_.bytes().subspan(header_.data_begin + tensor.begin, tensor.end - tensor.begin);
}

std::span<const std::byte> SafetensorsFile::expect(std::string_view name, DType dtype,
                                                   const Shape& shape) const {
  const TensorInfo& tensor = at(name);
  if (tensor.dtype != dtype || tensor.shape != shape) {
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("{}: tensor '{}' is {} {}, wanted is {} {}", path(), name, to_string(tensor.dtype),
                    to_string(tensor.shape), to_string(dtype), to_string(shape)));
  }
  return bytes(tensor);
}

void SafetensorsFile::read(std::string_view name, const ArrayView& out) const {
  const auto source = expect(name, out.dtype, out.shape);
  FURROW_CHECK(source.size() == out.bytes.size(), "an array view's bytes differ from its shape");
  if (!source.empty()) std::memcpy(out.bytes.data(), source.data(), source.size());
}

// Whole pages within the tensor: its first and last are its neighbours' too.
void SafetensorsFile::release(const TensorInfo& tensor) const {
  const std::span<const std::byte> own = bytes(tensor);
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(own.data()) + page - 1) / page * page,
             end = (reinterpret_cast<uintptr_t>(own.data()) + own.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

namespace {

void write_tensor(JsonWriter& json, const TensorInfo& tensor) {
  json.key(tensor.name).begin_object().field("dtype", std::string(safetensors_name(tensor.dtype)));
  json.key("shape").begin_array();
  for (const int64_t dim : tensor.shape) json.value(dim);
  json.end_array().key("data_offsets").begin_array().value(tensor.begin).value(tensor.end);
  json.end_array().end_object();
}

// The file's first bytes: the length of the text, padded so that data begin aligned, then the text.
std::string with_length(std::string text) {
  text.resize((kLengthBytes + text.size() + kAlignment - 1) / kAlignment * kAlignment - kLengthBytes, ' ');
  std::string length(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
  return length + text;
}

}  // namespace

std::string safetensors_header(std::vector<TensorInfo>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(-static_cast<int64_t>(dtype_size(a.dtype)), std::string_view(a.name)) <
           std::pair(-static_cast<int64_t>(dtype_size(b.dtype)), std::string_view(b.name));
  });
  JsonWriter json;
  json.begin_object();
  if (!metadata.empty()) {
    json.key(kMetadata).begin_object();
    for (const auto& [key, value] : metadata) json.field(key, value);
    json.end_object();
  }
  uint64_t offset = 0;
  for (TensorInfo& tensor : tensors) {
    tensor.begin = offset;
    tensor.end = offset += byte_size(tensor.dtype, tensor.shape);
    write_tensor(json, tensor);
  }
  return with_length(json.end_object().text());
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  for (const TensorInfo& tensor : tensors) {
    const bool usable = is_utf8(tensor.name) && tensor.name != kMetadata;
    if (!usable || !places_.emplace(tensor.name, Place{}).second) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: tensor name {} is used twice, reserved or not UTF-8", path,
                              json_quote(tensor.name)));
    }
  }
  const std::string header = safetensors_header(tensors, metadata);
  data_begin_ = header.size();
  file_.write(header);
  file_.extend(tensors.empty() ? 0 : tensors.back().end);
  for (TensorInfo& tensor : tensors) places_.find(tensor.name)->second.tensor = std::move(tensor);
}

void SafetensorsWriter::write(std::string_view name, const ArrayView& view) {
  const auto found = places_.find(name);
  FURROW_CHECK(found != places_.end() && !found->second.written, "a tensor is announced, then written once");
  Place& place = found->second;
  const TensorInfo& tensor = place.tensor;
  FURROW_CHECK(view.dtype == tensor.dtype && view.shape == tensor.shape &&
                   view.bytes.size() == tensor.end - tensor.begin,
               "a tensor is written as it was announced");
  file_.write_at(data_begin_ + tensor.begin, std::span<const std::byte>(view.bytes));
  place.written = true;
}

void SafetensorsWriter::commit() {
  for (const auto& [name, place] : places_)
    FURROW_CHECK(place.written, "a tensor was announced and never written");
  file_.commit();
}

void write_safetensors(const std::string& path, std::span<const NamedArray> arrays,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> tensors;
  for (const NamedArray& array : arrays)
    tensors.push_back({.name = array.name, .dtype = array.view.dtype, .shape = array.view.shape});
  SafetensorsWriter writer(path, std::move(tensors), metadata);
  for (const NamedArray& array : arrays) writer.write(array.name, array.view);
  writer.commit();
}

}  // namespace furrow::storage
