// Sums of the pixels of a set of images on its way into a pack, in a file that outlives the process: what was
// read once, and decoded, is not read again to fit mean and deviation.
//
// The images are cut into stretches; the file has a record for each that is done (docs/formats/pack.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/descriptor.h"
#include "furrow/preprocess/image_normaliser.h"

namespace furrow::data {

inline constexpr std::string_view kSumsSuffix = ".sums";  // of such a file's name

using ChannelSums = std::vector<preprocess::PixelSums>;  // one per channel

class PixelSumsFile {
 public:
  // In `folder`, with what an earlier process has left there of the same images, cut alike: `identity` tells
  // them from others.  Error: the file cannot be written.
  PixelSumsFile(const std::filesystem::path& folder, const std::string& identity, size_t stretches,
                size_t channels);

  const ChannelSums* find(size_t stretch) const;  // of an earlier process, or null; thread safe
  void add(size_t stretch,
           const ChannelSums& sums);  // thread safe; Error{resource_exhausted}: the disk is full

 private:
  std::string path_;
  uint64_t fingerprint_;
  std::map<uint64_t, ChannelSums> found_;
  std::mutex mutex_;
  Descriptor file_;
};

// What the whole records at the front of `file`, which `fingerprint` is of, say by stretch; `whole`: how many
// bytes of it that is, 0 of another file.
std::map<uint64_t, ChannelSums> parse_pixel_sums(std::span<const std::byte> file, uint64_t fingerprint,
                                                 size_t stretches, size_t channels, size_t* whole);

}  // namespace furrow::data
