#include "furrow/data/shared_rows.h"

namespace furrow::data {
namespace {

constexpr size_t kCell = 4;

SharedMemory::About about(const std::array<int64_t, 3>& rows, size_t width) {
  return {static_cast<int64_t>(width), rows[0], rows[1], rows[2]};
}

// Bounds that keep products of rows and cells in range.
bool plausible(const std::array<int64_t, 3>& rows, size_t width) {
  for (const int64_t count : rows) {
    if (count < 0 || count > int64_t{1} << 40) return false;
  }
  return width < size_t{1} << 20;
}

}  // namespace

size_t RowMemory::split_bytes(size_t split) const {
  return static_cast<size_t>(rows_[split]) * width_ * kCell;
}

std::span<std::byte> RowMemory::split(size_t split) const {
  size_t before = 0;
  for (size_t i = 0; i < split; ++i) before += split_bytes(i);
  std::byte* const cells = shared_ == nullptr ? own_.data() : shared_->bytes().data();
  return {cells + before, split_bytes(split)};
}

std::shared_ptr<RowMemory> RowMemory::make(const std::array<int64_t, 3>& rows, size_t width, bool shared) {
  std::shared_ptr<RowMemory> memory(new RowMemory(rows, width));
  if (shared) {
    memory->shared_ = SharedMemory::make(about(rows, width), memory->all_bytes());
  } else {
    memory->own_ = CountedBuffer(memory->all_bytes(), MemoryKind::kData);
  }
  return memory;
}

std::shared_ptr<RowMemory> RowMemory::map(const std::string& place, size_t width) {
  const auto shared = SharedMemory::map(place);
  if (shared == nullptr) return nullptr;
  const std::array<int64_t, 3> rows{shared->about()[1], shared->about()[2], shared->about()[3]};
  if (shared->about() != about(rows, width) || !plausible(rows, width)) return nullptr;
  std::shared_ptr<RowMemory> memory(new RowMemory(rows, width));
  if (shared->bytes().size() != memory->all_bytes()) return nullptr;
  memory->shared_ = shared;
  return memory;
}

}  // namespace furrow::data
