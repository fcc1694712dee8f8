#include "furrow/data/table_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/data/files.h"

namespace furrow::data {
namespace {

constexpr std::array<char, 8> kMagic{'F', 'U', 'R', 'R', 'O', 'W', 'R', '1'};

struct FileHead {
  std::array<char, 8> magic = kMagic;
  uint64_t fingerprint = 0;
};

struct BlockHead {
  uint64_t file = 0, begin = 0, end = 0, rows = 0;
  uint64_t bytes = 0, checksum = 0;  // of the block behind this
  uint64_t own_checksum = 0;         // of what is before it

  uint64_t hash() const {
    return xxh3_64(std::as_bytes(std::span(this, 1)).first(offsetof(BlockHead, own_checksum)));
  }
};

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// False: the file ends before.
bool read_whole(int file, uint64_t offset, std::span<std::byte> out, const std::string& path) {
  return read_at(file, offset, out, path) == out.size();
}

template <class T>
bool read_value(int file, uint64_t offset, T& value, const std::string& path) {
  return read_whole(file, offset, std::as_writable_bytes(std::span(&value, 1)), path);
}

CountedBuffer copy_of(std::span<const std::byte> block) {
  CountedBuffer bytes(block.size(), MemoryKind::kData);
  std::ranges::copy(block, bytes.data());
  return bytes;
}

}  // namespace

TableStore::TableStore(uint64_t memory_bytes) : memory_left_(memory_bytes) {}

TableStore::TableStore(std::filesystem::path path, const std::string& fingerprint) : path_(std::move(path)) {
  file_ = Descriptor(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!file_.open()) throw errno_error(errno, "open", path_.string());
  open_file(fingerprint);
}

TableStore::~TableStore() = default;

void TableStore::open_file(const std::string& fingerprint) {
  struct stat status{};
  if (::fstat(file_.get(), &status) != 0) throw errno_error(errno, "read", path_.string());
  const FileHead want{.fingerprint = xxh3_64(fingerprint)};
  FileHead head;
  end_ = sizeof head;
  const bool same = read_value(file_.get(), 0, head, path_.string()) && head.magic == want.magic &&
                    head.fingerprint == want.fingerprint;
  if (same) scan(static_cast<uint64_t>(status.st_size));
  // What is behind the last whole block goes.
  if (::ftruncate(file_.get(), static_cast<off_t>(same ? end_ : 0)) != 0)
    throw errno_error(errno, "write", path_.string());
  if (::lseek(file_.get(), 0, SEEK_END) < 0) throw errno_error(errno, "write", path_.string());
  if (!same) write_all(file_.get(), bytes_of(want), path_.string());
}

// Finds the blocks that are whole.
void TableStore::scan(uint64_t size) {
  std::vector<std::byte> block;
  BlockHead head;
  while (read_value(file_.get(), end_, head, path_.string()) && head.hash() == head.own_checksum) {
    const uint64_t at = end_ + sizeof head;
    if (head.bytes > size - std::min(at, size)) return;
    block.resize(head.bytes);
    if (!read_whole(file_.get(), at, block, path_.string()) || xxh3_64(block) != head.checksum) return;
    kept_[{head.file, head.begin, head.end, static_cast<int64_t>(head.rows)}] = {nullptr, at, head.bytes,
                                                                                 head.checksum};
    end_ = at + head.bytes;
  }
}

const BlockPlace* TableStore::find(uint64_t file, uint64_t begin) const {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.lower_bound({file, begin, 0, 0});
  return found != kept_.end() && found->first.file == file && found->first.begin == begin ? &found->first
                                                                                          : nullptr;
}

// Behind the others in the file without a name.  False: there is no room.
bool TableStore::put_aside(std::span<const std::byte> block) {
  if (no_room_) return false;
  try {
    FURROW_FAILPOINT("table.before_nameless");
    if (!file_.open()) file_ = open_nameless_file();
    write_all(file_.get(), block, "the rows of a table in a file without a name");
    return true;
  } catch (const Error& error) {
    no_room_ = true;
    log_warning(
        fmt::format("{}: the rows of the table stay in memory until they are encoded; name a folder with "
                    "more room in TMPDIR to need less",
                    error.what()));
    return false;
  }
}

void TableStore::add(const BlockPlace& place, std::span<const std::byte> block) {
  FURROW_FAILPOINT("table.before_block");
  if (!lasts()) {
    const std::lock_guard lock(mutex_);
    if (block.size() > memory_left_ && put_aside(block)) {
      kept_[place] = {nullptr, std::exchange(end_, end_ + block.size()), block.size(), 0};
      return;
    }
    kept_[place] = {std::make_shared<const HeldBlock>(copy_of(block)), 0, block.size(), 0};
    memory_left_ -= std::min<uint64_t>(memory_left_, block.size());
    return;
  }
  BlockHead head{place.file,   place.begin,    place.end, static_cast<uint64_t>(place.rows),
                 block.size(), xxh3_64(block), 0};
  head.own_checksum = head.hash();
  const std::lock_guard lock(mutex_);
  write_all(file_.get(), bytes_of(head), path_.string());
  write_all(file_.get(), block, path_.string());
  kept_[place] = {nullptr, end_ + sizeof head, block.size(), head.checksum};
  end_ += sizeof head + block.size();
}

int64_t TableStore::rows_before(uint64_t file, uint64_t begin) const {
  const std::lock_guard lock(mutex_);
  int64_t rows = 0;
  for (auto at = kept_.lower_bound({file, 0, 0, 0}); at != kept_.end(); ++at) {
    if (at->first.file != file || at->first.begin >= begin) break;
    rows += at->first.rows;
  }
  return rows;
}

void TableStore::seal() {
  for (auto& [place, kept] : kept_) {
    const bool same_file = !order_.empty() && order_.back().place->file == place.file;
    const int64_t row_in_file = same_file ? order_.back().row_in_file + order_.back().place->rows : 0;
    if (place.rows > 0) order_.push_back({&place, &kept, rows_, row_in_file});
    rows_ += place.rows;
    bytes_ += kept.bytes;
  }
}

size_t TableStore::block_of(int64_t row) const {
  const auto behind = std::ranges::upper_bound(order_, row, {}, &Ordered::first_row);
  return static_cast<size_t>(behind - order_.begin()) - 1;
}

std::vector<BlockPlace> TableStore::places() const {
  const std::lock_guard lock(mutex_);
  std::vector<BlockPlace> places;
  for (const auto& [place, kept] : kept_) places.push_back(place);
  return places;
}

std::shared_ptr<const HeldBlock> TableStore::load(size_t block) const { return load(*order_[block].kept); }

std::shared_ptr<const HeldBlock> TableStore::load(const BlockPlace& place) const {
  const Kept* kept = nullptr;
  {
    const std::lock_guard lock(mutex_);
    kept = &kept_.at(place);
  }
  return load(*kept);
}

std::shared_ptr<const HeldBlock> TableStore::load(const Kept& kept) const {
  if (kept.memory != nullptr) return kept.memory;
  CountedBuffer bytes(kept.bytes, MemoryKind::kData);
  const std::span<std::byte> all(bytes.data(), bytes.size());
  const std::string name = lasts() ? path_.string() : "the file without a name that holds rows of a table";
  if (!read_whole(file_.get(), kept.offset, all, name) || (lasts() && xxh3_64(all) != kept.checksum))
    throw Error(ErrorCode::kDataLoss, fmt::format("{} has changed while it was used: start again", name));
  return std::make_shared<const HeldBlock>(std::move(bytes));
}

void TableStore::drop(size_t block) {
  Kept& kept = *order_[block].kept;
  if (kept.memory == nullptr && !lasts()) {  // a file system that cannot do so keeps it until the end
    ::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(kept.offset),
                static_cast<off_t>(kept.bytes));
  }
  kept.memory = nullptr;
}

}  // namespace furrow::data
