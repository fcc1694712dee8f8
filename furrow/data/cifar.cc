#include "furrow/data/cifar.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

void append_labels(std::span<const uint8_t> records, const fs::path& file, std::vector<int32_t>& labels) {
  for (size_t at = 0; at < records.size(); at += kCifarRecordBytes) {
    if (records[at] >= kCifarClasses) {
      throw Error(ErrorCode::kDataLoss,
                  fmt::format("{}: record {} has label {}, not 0 to {}: the file is damaged or not CIFAR-10, "
                              "fetch it again",
                              file.string(), at / kCifarRecordBytes, records[at], kCifarClasses - 1));
    }
    labels.push_back(records[at]);
  }
}

}  // namespace

std::vector<std::string> cifar_names() {
  return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
}

int64_t count_cifar_records(uint64_t bytes, const fs::path& file) {
  if (bytes == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is empty: there is nothing to train on", file.string()));
  }
  if (bytes % kCifarRecordBytes != 0) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("{} has {} bytes, not a multiple of {}: the file is damaged or not the binary "
                            "version of CIFAR-10, fetch it again",
                            file.string(), bytes, kCifarRecordBytes));
  }
  return static_cast<int64_t>(bytes / kCifarRecordBytes);
}

LabelledImages load_cifar(std::span<const fs::path> files) {
  std::vector<Bytes> parts;
  size_t total = 0;
  for (const fs::path& file : files) {
    parts.push_back(read_contents(file));
    count_cifar_records(parts.back().contents.size(), file);
    total += parts.back().contents.size();
  }
  LabelledImages::Parts images{.owner = {CountedBuffer(total, MemoryKind::kData), {}},
                               .stride = kCifarRecordBytes,
                               .shape = {3, 32, 32},
                               .label_file = files.front().string()};
  images.labels.reserve(total / kCifarRecordBytes);
  std::byte* to = images.owner.buffer.data();
  images.owner.contents = {to, total};
  images.pixels = reinterpret_cast<const uint8_t*>(to) + 1;
  for (size_t i = 0; i < files.size(); ++i) {
    append_labels(parts[i].as_uint8(), files[i], images.labels);
    std::memcpy(to, parts[i].contents.data(), parts[i].contents.size());
    to += parts[i].contents.size();
    parts[i] = {};
  }
  return LabelledImages(std::move(images));
}

}  // namespace furrow::data
