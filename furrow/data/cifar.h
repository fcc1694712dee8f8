// The binary version of CIFAR-10: records of one label byte and 32x32 pixels, red, green, blue planes one
// after the other, each row by row.  Krizhevsky, "Learning multiple layers of features from tiny images",
// 2009; the layout is that of the data set's page.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/images.h"

namespace furrow::data {

inline constexpr int64_t kCifarClasses = 10;
// What they are called, as batches.meta.txt beside the files says.
std::vector<std::string> cifar_names();
inline constexpr size_t kCifarRecordBytes = 1 + 3 * 32 * 32;

// Records of a file of `bytes` bytes.  Error{data_loss}: not whole records; {invalid_argument}: none.
int64_t count_cifar_records(uint64_t bytes, const std::filesystem::path& file);

// The images of `files`, in order.  Error{data_loss, invalid_argument} name the file: not whole records, no
// record, a label that is not below 10 (with its number in the file).
LabelledImages load_cifar(std::span<const std::filesystem::path> files);

}  // namespace furrow::data
