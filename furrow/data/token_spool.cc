#include "furrow/data/token_spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"

namespace furrow::data {
namespace {

// A record: these words, the ends, then XXH3-64 of the record before it (at first of the identity) and of all
// that.  Little-endian, as the tokens.
enum Word { kFile, kByte, kTokens, kEnds, kStretch, kWords };  // of the stretch: XXH3-64 of its tokens
constexpr size_t kWordBytes = sizeof(uint64_t);

Descriptor open_kept(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.open()) throw errno_error(errno, "write tokens to", path);
  return file;
}

uint64_t chained(uint64_t before, std::span<const std::byte> record) {
  Xxh3Stream stream;
  stream.update(std::as_bytes(std::span(&before, 1)));
  stream.update(record);
  return stream.digest_64();
}

void cut_to(int file, uint64_t bytes, const std::string& path) {
  const auto length = static_cast<off_t>(bytes);
  if (::ftruncate(file, length) != 0 || ::lseek(file, length, SEEK_SET) < 0)
    throw errno_error(errno, "write tokens to", path);
}

}  // namespace

struct TokenSpool::Record {
  std::array<uint64_t, kWords> words{};
  std::vector<int64_t> ends = {};
  uint64_t checksum = 0;
  size_t bytes = 0;  // of the record itself

  // The record at the front of `journal`; false: there is no whole one.
  bool parse(std::span<const std::byte> journal, uint64_t before) {
    constexpr size_t kHead = kWords * kWordBytes;
    if (journal.size() < kHead + kWordBytes) return false;
    std::memcpy(words.data(), journal.data(), kHead);
    if (words[kEnds] > (journal.size() - kHead - kWordBytes) / kWordBytes) return false;
    ends.resize(words[kEnds]);
    const size_t checked = kHead + ends.size() * kWordBytes;
    if (!ends.empty()) std::memcpy(ends.data(), journal.data() + kHead, ends.size() * kWordBytes);
    std::memcpy(&checksum, journal.data() + checked, kWordBytes);
    bytes = checked + kWordBytes;
    return checksum == chained(before, journal.first(checked));
  }
};

TokenSpool::TokenSpool(const std::filesystem::path& folder, const std::string& identity, int64_t vocabulary,
                       const std::function<void(uint64_t done, uint64_t total)>& between)
    : vocabulary_(vocabulary),
      tokens_path_((folder / (std::string(kSpoolPrefix) + identity + ".tokens")).string()),
      journal_path_((folder / (std::string(kSpoolPrefix) + identity + ".journal")).string()),
      chain_(xxh3_64(identity)),
      stretch_(std::make_unique<Xxh3Stream>()) {
  tokens_ = open_kept(tokens_path_);
  journal_ = open_kept(journal_path_);
  keep_whole(between);
}

TokenSpool::~TokenSpool() = default;

void TokenSpool::keep_whole(const std::function<void(uint64_t done, uint64_t total)>& between) {
  size_t kept = 0;
  {
    const MappedFile journal(journal_path_);
    const auto total = static_cast<uint64_t>(::lseek(tokens_.get(), 0, SEEK_END));
    uint64_t done = 0;
    const auto told = [&](uint64_t bytes) { between(done += bytes, total); };
    for (Record record; record.parse(journal.bytes().subspan(kept), chain_) && agrees(record, told);) {
      place_ = {record.words[kFile], record.words[kByte]};
      size_ = static_cast<int64_t>(record.words[kTokens]);
      ends_.insert(ends_.end(), record.ends.begin(), record.ends.end());
      chain_ = record.checksum;
      kept += record.bytes;
    }
  }
  cut_to(tokens_.get(), static_cast<uint64_t>(size_) * static_cast<uint64_t>(token_width(vocabulary_)),
         tokens_path_);
  cut_to(journal_.get(), kept, journal_path_);
}

// The tokens of the record, behind those that are kept, are what it says.
bool TokenSpool::agrees(const Record& record, const std::function<void(uint64_t)>& between) const {
  const auto width = static_cast<uint64_t>(token_width(vocabulary_));
  uint64_t at = static_cast<uint64_t>(size_) * width;
  const uint64_t end = record.words[kTokens] * width;
  std::vector<std::byte> memory(size_t{1} << 20);
  Xxh3Stream stretch;
  while (at < end) {
    const auto piece = std::span(memory).first(std::min<uint64_t>(memory.size(), end - at));
    if (read_at(tokens_.get(), at, piece, tokens_path_) < piece.size()) return false;
    stretch.update(piece);
    at += piece.size();
    between(piece.size());
  }
  return at == end && stretch.digest_64() == record.words[kStretch];
}

void TokenSpool::append(std::span<const uint32_t> ids) {
  const std::vector<std::byte> bytes = narrowed(ids, vocabulary_);
  write_all(tokens_.get(), bytes, tokens_path_);
  stretch_->update(bytes);
  size_ += static_cast<int64_t>(ids.size());
}

void TokenSpool::mark(TextPlace place, std::span<const int64_t> ends) {
  FURROW_FAILPOINT("text.before_mark");
  const std::array<uint64_t, kWords> words{
      place.file, place.byte, static_cast<uint64_t>(size_), ends.size(),
      std::exchange(stretch_, std::make_unique<Xxh3Stream>())->digest_64()};
  std::vector<std::byte> record(kWords * kWordBytes + ends.size_bytes());
  std::memcpy(record.data(), words.data(), kWords * kWordBytes);
  std::ranges::copy(std::as_bytes(ends), record.begin() + kWords * kWordBytes);
  chain_ = chained(chain_, record);
  const auto checksum = std::as_bytes(std::span(&chain_, 1));
  record.insert(record.end(), checksum.begin(), checksum.end());
  write_all(journal_.get(), record, journal_path_);
  place_ = place;
}

std::shared_ptr<const TokenStore> TokenSpool::finish() {
  return std::make_shared<Tokens>(MappedFile(tokens_path_), vocabulary_);
}

void TokenSpool::discard() {
  ::unlink(tokens_path_.c_str());
  ::unlink(journal_path_.c_str());
}

}  // namespace furrow::data
