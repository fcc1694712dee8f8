// The image files of a pack of the layout kEncodedRecords, decoded whenever they are asked for.
#pragma once

#include <memory>

#include "furrow/data/images.h"
#include "furrow/storage/pack.h"

namespace furrow::data {

struct PackedFiles {
  storage::PackReader bytes;
  storage::PackReader index;
  PictureSizes sizes;   // of the pictures
  PictureSizes fitted;  // of those that the fitted values of the pack are of
  int64_t classes;
};

// Looks at all of the index.  Error{data_loss}: it does not fit the bytes.
std::shared_ptr<const ImageStore> open_packed_files(PackedFiles files);

}  // namespace furrow::data
