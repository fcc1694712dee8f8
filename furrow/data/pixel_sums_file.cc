#include "furrow/data/pixel_sums_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"

namespace furrow::data {
namespace {

using preprocess::PixelSums;

// The file begins with these words; a record is its stretch, the sums of each channel, then XXH3-64 of the
// fingerprint and of all that.
constexpr std::array<char, 8> kMagic{'F', 'U', 'R', 'R', 'O', 'W', 'S', '1'};
constexpr size_t kWordBytes = sizeof(uint64_t), kHeadBytes = 2 * kWordBytes, kSums = 3;

using Words = std::vector<uint64_t>;

uint64_t checksum_of(uint64_t fingerprint, std::span<const uint64_t> words) {
  Xxh3Stream stream;
  stream.update(std::as_bytes(std::span(&fingerprint, 1)));
  stream.update(std::as_bytes(words));
  return stream.digest_64();
}

std::array<uint64_t, 2> head_of(uint64_t fingerprint) {
  std::array<uint64_t, 2> head{0, fingerprint};
  std::memcpy(head.data(), kMagic.data(), kMagic.size());
  return head;
}

}  // namespace

std::map<uint64_t, ChannelSums> parse_pixel_sums(std::span<const std::byte> file, uint64_t fingerprint,
                                                 size_t stretches, size_t channels, size_t* whole) {
  std::map<uint64_t, ChannelSums> found;
  const std::array<uint64_t, 2> head = head_of(fingerprint);
  *whole = 0;
  if (file.size() < kHeadBytes || std::memcmp(file.data(), head.data(), kHeadBytes) != 0) return found;
  *whole = kHeadBytes;
  Words words(1 + kSums * channels + 1);
  const size_t bytes = words.size() * kWordBytes;
  for (; file.size() - *whole >= bytes; *whole += bytes) {
    std::memcpy(words.data(), file.data() + *whole, bytes);
    const bool agrees = checksum_of(fingerprint, std::span(words).first(words.size() - 1)) == words.back();
    if (!agrees || words[0] >= stretches) return found;
    ChannelSums& sums = found[words[0]];
    sums.clear();
    for (size_t c = 0; c < channels; ++c)
      sums.push_back({words[1 + kSums * c], words[2 + kSums * c], words[3 + kSums * c]});
  }
  return found;
}

PixelSumsFile::PixelSumsFile(const std::filesystem::path& folder, const std::string& identity,
                             size_t stretches, size_t channels)
    : path_((folder / fmt::format("images-{}{}", to_hex(xxh3_128(identity)), kSumsSuffix)).string()),
      fingerprint_(xxh3_64(fmt::format("{} {} {}", identity, stretches, channels))) {
  make_directories(folder.string());
  file_ = Descriptor(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file_.open()) throw errno_error(errno, "write", path_);
  size_t whole = 0;
  {
    const MappedFile file(path_);
    found_ = parse_pixel_sums(file.bytes(), fingerprint_, stretches, channels, &whole);
  }
  // What is behind the last whole record goes.
  if (::ftruncate(file_.get(), static_cast<off_t>(whole)) != 0 || ::lseek(file_.get(), 0, SEEK_END) < 0)
    throw errno_error(errno, "write", path_);
  const std::array<uint64_t, 2> head = head_of(fingerprint_);
  if (whole == 0) write_all(file_.get(), std::as_bytes(std::span(head)), path_);
}

const ChannelSums* PixelSumsFile::find(size_t stretch) const {
  const auto found = found_.find(stretch);
  return found == found_.end() ? nullptr : &found->second;
}

void PixelSumsFile::add(size_t stretch, const ChannelSums& sums) {
  FURROW_FAILPOINT("images.before_sums");
  Words words{stretch};
  for (const PixelSums& of : sums) words.insert(words.end(), {of.count, of.sum, of.sum_of_squares});
  words.push_back(checksum_of(fingerprint_, words));
  const std::lock_guard lock(mutex_);
  write_all(file_.get(), std::as_bytes(std::span(words)), path_);
}

}  // namespace furrow::data
