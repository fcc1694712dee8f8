// The program printed in docs/concepts/program.md is the one that is compiled today.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "furrow/config/model.h"
#include "furrow/models/architectures.h"
#include "furrow/plan/compile.h"

namespace furrow::models {
namespace {

std::string read(const std::string& path) {
  const char* root = std::getenv("FURROW_SOURCE_DIR");
  std::ifstream in((root != nullptr ? std::string(root) : ".") + "/" + path, std::ios::binary);
  EXPECT_TRUE(in) << "no file " << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TEST(PrintedProgram, IsCurrent) {
  const std::string page = read("docs/concepts/program.md");
  const std::string open = "```text\n";
  const size_t begin = page.find(open) + open.size();
  const std::string printed = page.substr(begin, page.find("```", begin) - begin);

  config::Model model;
  model.name = "mlp";
  model.hidden = {32};
  const plan::ModelSpec spec = describe(model, {{DType::kF32, {-1, 1, 28, 28}}, 10});
  EXPECT_EQ(printed, plan::to_text(plan::compile_train(spec, plan::Layout(), {{64, 64}, {}, 0})));
}

}  // namespace
}  // namespace furrow::models
