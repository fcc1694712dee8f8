// The small files of a checkpoint, shared by its writer and its reader.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "furrow/storage/checkpoint.h"

namespace furrow::storage {

inline constexpr std::string_view kManifestFile = "manifest.json";
inline constexpr std::string_view kCommitFile = "COMMIT";

// What COMMIT says of this manifest: format, version and checksum.
std::string commit_record(std::string_view manifest);

// Tensors with some of their pieces, as one rank tells another.  parse throws Error{data_loss}.
std::string pieces_to_json(const std::vector<LogicalTensor>& tensors);
std::vector<LogicalTensor> parse_pieces(std::string_view json);

// Error{data_loss} unless the pieces are disjoint boxes that cover the tensor.
void check_coverage(const LogicalTensor& tensor);

}  // namespace furrow::storage
