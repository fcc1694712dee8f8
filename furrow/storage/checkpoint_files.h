// The small files of a checkpoint, shared by its writer and its reader.
#pragma once

#include <string>
#include <string_view>

namespace furrow::storage {

inline constexpr std::string_view kManifestFile = "manifest.json";
inline constexpr std::string_view kCommitFile = "COMMIT";

// What COMMIT says of this manifest: format, version and checksum.
std::string commit_record(std::string_view manifest);

}  // namespace furrow::storage
