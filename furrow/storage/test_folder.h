// A folder of a test's own, removed with it; in memory where there is /dev/shm, since these tests sync a lot.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "furrow/base/file.h"

namespace furrow::storage {

class TestFolder {
 public:
  TestFolder() {
    std::string pattern =
        (path_exists("/dev/shm") ? "/dev/shm/" : ::testing::TempDir()) + "furrow_storage_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~TestFolder() { remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace furrow::storage
