// For tests: the image files of the fuzzer's corpus, all of one picture.
#pragma once

#include <fstream>
#include <iterator>
#include <string>

#include "furrow/data/test_files.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::data::testing {

inline ByteVector sample(const std::string& name) {
  std::ifstream in(furrow::testing::source_root() / "furrow/data/image_file_fuzz_corpus" / name,
                   std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace furrow::data::testing
