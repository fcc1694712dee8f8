// Names of classes: through text and back, from every kind of state, compared word by word.
#include "furrow/preprocess/class_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/preprocess/difference.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::preprocess {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Optional;

TEST(ClassNames, AreALineEach) {
  const std::vector<std::string> names = {"cat", "a \\ b", "two\nlines\r", "", "1.0"};
  EXPECT_EQ(parse_names(names_text(names)), names);
  EXPECT_EQ(names_text({"cat", "dog"}), "cat\ndog");
  EXPECT_THAT(parse_names(""), IsEmpty());
  EXPECT_THROW(parse_names("cat\\x"), Error);
}

TEST(ClassNames, OfATableAreItsLabels) {
  const TableEncoder encoder({{.name = "x"}}, {.name = "y", .labels = {"no", "yes"}});
  EXPECT_THAT(class_names(encoder.state()), ElementsAre("no", "yes"));
  const TableEncoder number({{.name = "x"}}, {.name = "y", .is_number = true});
  EXPECT_THAT(class_names(number.state()), IsEmpty());
  EXPECT_THAT(class_names({{"kind", "image"}, {kClassNames, "cat\ndog"}}), ElementsAre("cat", "dog"));
  EXPECT_THAT(class_names({{"kind", "image"}}), IsEmpty());
  EXPECT_THAT(class_names({}), IsEmpty());
}

TEST(ClassNames, DifferByNameAndPlace) {
  const std::vector<std::string> pets = {"cat", "dog"};
  EXPECT_EQ(class_difference(pets, pets), std::nullopt);
  EXPECT_EQ(class_difference(pets, {"cat"}), std::nullopt);  // number 0 means the same
  EXPECT_EQ(class_difference({}, pets), std::nullopt);
  EXPECT_EQ(class_difference(pets, {}), std::nullopt);
  EXPECT_THAT(class_difference(pets, {"cat", "wolf"}),
              Optional(std::string("class 1 is 'dog' there and 'wolf' here")));
  EXPECT_THAT(class_difference(pets, {"dog", "cat"}),
              Optional(std::string("class 0 is 'cat' there and 'dog' here")));
  EXPECT_THAT(class_difference(pets, {"cat", "dog", "emu"}),
              Optional(std::string("class 2, 'emu', is here alone")));
  // 1.00 and 1.01 are two names, though two such means would do for one.
  EXPECT_TRUE(class_difference({"1.00"}, {"1.01"}).has_value());
  EXPECT_FALSE(difference({{kClassNames, "1.00"}}, {{kClassNames, "7"}}).has_value());
}

}  // namespace
}  // namespace furrow::preprocess
