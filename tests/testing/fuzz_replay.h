// Replays a fuzzing corpus in a unit test: every file as it is, then cut short and with single bits flipped.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace furrow::testing {

using FuzzTarget = int (*)(const uint8_t* data, size_t size);

// The repository's root: FURROW_SOURCE_DIR, or the working directory.
inline std::filesystem::path source_root() {
  const char* root = std::getenv("FURROW_SOURCE_DIR");
  return root != nullptr ? std::filesystem::path(root) : std::filesystem::current_path();
}

// Fails when the folder (relative to the root) is missing or empty; the target itself fails by crashing.
inline void replay_corpus(const std::string& folder, FuzzTarget target) {
  const std::filesystem::path path = source_root() / folder;
  ASSERT_TRUE(std::filesystem::is_directory(path)) << "no corpus " << path;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  ASSERT_FALSE(files.empty()) << "empty corpus " << path;
  constexpr size_t kVariants = 32;
  for (const auto& file : files) {
    SCOPED_TRACE(file.string());
    std::ifstream in(file, std::ios::binary);
    std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    target(bytes.data(), bytes.size());
    for (size_t i = 0; i < kVariants && !bytes.empty(); ++i) {
      target(bytes.data(), bytes.size() * i / kVariants);
      const size_t at = (i * 2654435761u) % bytes.size();
      bytes[at] ^= static_cast<uint8_t>(1u << (i % 8));
      target(bytes.data(), bytes.size());
      bytes[at] ^= static_cast<uint8_t>(1u << (i % 8));
    }
  }
}

}  // namespace furrow::testing
