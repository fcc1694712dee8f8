#include "furrow/config/help.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/config/schema.h"

namespace furrow::config {
namespace {

using ::testing::HasSubstr;

TEST(Help, GoesFromSectionsToKeys) {
  for (const Section& section : schema()) {
    EXPECT_THAT(help(""), HasSubstr(section.name));
    for (const Field& field : section.fields) {
      EXPECT_THAT(help(section.name), HasSubstr(field.key));
      EXPECT_THAT(help(field.name()), HasSubstr(std::string(field.spec.doc)));
    }
  }
}

TEST(Help, OfAKeySaysEverything) {
  EXPECT_EQ(help("optimizer.momentum"),
            "optimizer.momentum\n  Of SGD, and of the matrices of Muon, where 0.95 is usual.\n  type     "
            "number\n  range    >= 0, < 1\n  default  0.0\n"
            "  only if  optimizer.name = sgd or muon, or optimizer.groups with name=sgd or name=muon\n"
            "  changes  recipe\n");
  EXPECT_EQ(help("seq_len"), help("training.seq_len"));
}

TEST(Help, UnknownNamesTheNearest) {
  for (const auto& [wrong, right] :
       {std::pair{"trainin", "training"}, {"training.stepz", "training.steps"}}) {
    try {
      help(wrong);
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNotFound);
      EXPECT_THAT(error.what(), HasSubstr(std::string("did you mean '") + right + "'?"));
    }
  }
}

// FURROW_UPDATE_DOCS=1 writes the file instead of comparing.
TEST(Reference, DocsConfigIsUpToDate) {
  const char* root = std::getenv("FURROW_SOURCE_DIR");
  const std::string path = std::string(root == nullptr ? "." : root) + "/docs/config.md";
  if (std::getenv("FURROW_UPDATE_DOCS") != nullptr) write_file_atomic(path, reference_markdown());
  EXPECT_EQ(read_file(path), reference_markdown()) << "run: ./dev docs";
}

}  // namespace
}  // namespace furrow::config
