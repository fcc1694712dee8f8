#include "furrow/preprocess/difference.h"

#include <gtest/gtest.h>

#include "furrow/preprocess/image_normaliser.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {
namespace {

std::string key_of(const State& first, const State& second) {
  const auto found = difference(first, second);
  return found ? found->key : "";
}

TEST(Difference, OfTokenizersIsTheirKindOrTheirVocabulary) {
  const State ab = CharTokenizer::fit("abab").state(), abc = CharTokenizer::fit("abc").state();
  EXPECT_EQ(difference(ab, ab), std::nullopt);
  EXPECT_EQ(key_of(ab, abc), "alphabet");
  EXPECT_EQ(key_of(ab, CharTokenizer::fit("bc").state()), "alphabet") << "as many, code points side by side";
  const auto kinds = difference(ab, ByteTokenizer().state());
  ASSERT_TRUE(kinds);
  EXPECT_EQ(kinds->key, "kind") << "before any other key";
  EXPECT_EQ(kinds->first, "\"char\"");
  EXPECT_EQ(kinds->second, "\"byte\"");
}

TEST(Difference, OfNumbersIsMoreThanWhatAnotherSplitChanges) {
  const auto image = [](std::vector<double> means, std::vector<double> stds) {
    return ImageNormaliser(std::move(means), std::move(stds)).state();
  };
  EXPECT_EQ(key_of(image({0.1307}, {0.3081}), image({0.1311}, {0.3079})), "");
  EXPECT_EQ(key_of(image({0.0001}, {0.3081}), image({-0.0001}, {0.3081})), "") << "of either sign";
  EXPECT_EQ(key_of(image({0.1307}, {0.3081}), image({0}, {1})), "mean");
  EXPECT_EQ(key_of(image({0.5}, {0.3}), image({0.5}, {0.4})), "std");
  EXPECT_EQ(key_of(image({0.5}, {0.3}), image({0.5, 0.5}, {0.3, 0.3})), "mean") << "a channel more";
}

TEST(Difference, OfCountsAndOfKeysIsAny) {
  EXPECT_EQ(key_of({{"kind", "byte"}, {"classes", "256"}}, {{"kind", "byte"}, {"classes", "257"}}),
            "classes");
  EXPECT_EQ(key_of({{"kind", "byte"}}, {{"kind", "byte"}, {"classes", "257"}}), "classes");
  const auto found = difference({{"a", std::string(50, 'x')}}, {});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->first, "\"" + std::string(40, 'x') + "\"...");
  EXPECT_EQ(found->second, "nothing");
}

}  // namespace
}  // namespace furrow::preprocess
