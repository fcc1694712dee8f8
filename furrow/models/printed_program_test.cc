// The program printed in docs/concepts/program.md is the one that is compiled today.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

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

// The text blocks of the page, in order.
std::vector<std::string> printed_blocks() {
  const std::string page = read("docs/concepts/program.md");
  const std::string open = "```text\n";
  std::vector<std::string> blocks;
  for (size_t at = page.find(open); at != std::string::npos; at = page.find(open, at + 1)) {
    const size_t begin = at + open.size();
    blocks.push_back(page.substr(begin, page.find("```", begin) - begin));
  }
  return blocks;
}

plan::ModelSpec two_layers() {
  config::Model model;
  model.name = "mlp";
  model.hidden = {32};
  return describe(model, {{DType::kF32, {-1, 1, 28, 28}}, 10});
}

TEST(PrintedProgram, IsCurrent) {
  const std::vector<std::string> blocks = printed_blocks();
  ASSERT_EQ(blocks.size(), 4u);
  const plan::TrainOptions options{{64, 64}, {}, 0};
  EXPECT_EQ(blocks[0], plan::to_text(plan::compile_train(two_layers(), plan::Layout(), options)));
}

// Some lines of a program.
void expect_lines(const std::string& block, const plan::Program& program) {
  const std::string text = plan::to_text(program);
  std::istringstream lines(block);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_NE(text.find(line + "\n"), std::string::npos) << line << " is not in\n" << text;
  EXPECT_GT(count, 0);
}

TEST(PrintedProgram, OfAGanIsCurrent) {
  config::Model model;
  model.name = "gan";
  const plan::ModelSpec spec = describe(model, {{DType::kF32, {-1, 1, 28, 28}}, 10});
  expect_lines(printed_blocks().at(1), plan::compile_train(spec, plan::Layout(), {{64}, {}, 2}));
}

TEST(PrintedProgram, OfARankIsCurrent) {
  plan::TrainOptions options{{64, 64}, {}, 0};
  options.ranks.rank = 1;
  options.ranks.zero_stage = 2;
  expect_lines(printed_blocks().at(2),
               plan::compile_train(two_layers(), plan::Layout({1, 1, 2, 1, 1, 1}, 2), options));
}

TEST(PrintedProgram, OfAPipelineIsCurrent) {
  const plan::TrainOptions options{{64, 64}, {}, 0};
  expect_lines(printed_blocks().at(3),
               plan::compile_train(two_layers(), plan::Layout({2, 1, 1, 1, 1, 1}, 2), options));
}

}  // namespace
}  // namespace furrow::models
