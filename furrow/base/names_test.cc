#include "furrow/base/names.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

namespace furrow {
namespace {

const std::vector<std::string> kKnown = {"sgd", "adamw", "local_batch_size", "global_batch_size"};

TEST(Names, FindsTheNearest) {
  EXPECT_EQ(nearest_name("adamv", kKnown), "adamw");
  EXPECT_EQ(nearest_name("sdg", kKnown), "sgd");
  EXPECT_EQ(nearest_name("lokal_batchsize", kKnown), "local_batch_size");
  EXPECT_EQ(nearest_name("global", kKnown), "global_batch_size");
  EXPECT_EQ(nearest_name("momentum", kKnown), "");
  EXPECT_EQ(nearest_name(std::string(1000, 'a'), kKnown), "");
  EXPECT_EQ(nearest_name("x", {}), "");
}

TEST(Names, MessageNamesWhatItIsAndWhatIsKnown) {
  EXPECT_EQ(unknown_name_message("optimizer", "adamv", std::vector<std::string>{"sgd", "adamw"}),
            "unknown optimizer 'adamv': did you mean 'adamw'? known: adamw, sgd");
  EXPECT_EQ(unknown_name_message("optimizer", "zzz", std::vector<std::string>{"sgd", "adamw"}),
            "unknown optimizer 'zzz': known: adamw, sgd");
}

TEST(Names, AMessageListsNoThousands) {
  std::vector<std::string> known;
  for (int i = 0; i < 1000; ++i) known.push_back(fmt::format("layer.{}", 1000 + i));
  const std::string message = unknown_name_message("tensor", "layer.1999x", known);
  EXPECT_TRUE(
      message.starts_with("unknown tensor 'layer.1999x': did you mean 'layer.1999'? known: layer.1000, "));
  EXPECT_TRUE(message.ends_with(", layer.1099 and 900 more"));
}

}  // namespace
}  // namespace furrow
