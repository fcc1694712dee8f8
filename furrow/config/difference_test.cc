#include "furrow/config/difference.h"

#include <gtest/gtest.h>

#include "furrow/config/config.h"

namespace furrow::config {
namespace {

std::string shown(const std::optional<Difference>& found) {
  return found ? found->key + ": " + found->a + ", " + found->b : "alike";
}

TEST(Difference, NamesTheFirstKeyAndBothValues) {
  Config a, b;
  EXPECT_EQ(shown(first_difference(to_toml(a), to_toml(b))), "alike");
  b.comm.connections = 7;
  EXPECT_EQ(shown(first_difference(to_toml(a), to_toml(b))), "comm.connections: 2, 7");
  b.training.dataset_path = "/data = [1]";  // a value that looks like a line of its own
  EXPECT_EQ(shown(first_difference(to_toml(a), to_toml(b))), "training.dataset_path: \"\", \"/data = [1]\"");
}

TEST(Difference, KeysOfOneNameAreToldApartByTheirSection) {
  EXPECT_EQ(shown(first_difference("[a]\nname = 1\n[b]\nname = 2\n", "[a]\nname = 1\n[b]\nname = 3\n")),
            "b.name: 2, 3");
}

TEST(Difference, AKeyThatIsMissingIsNothing) {
  EXPECT_EQ(shown(first_difference("[a]\nx = 1\ny = 2\n", "[a]\ny = 2\n")), "a.x: 1, nothing");
  EXPECT_EQ(shown(first_difference("[a]\ny = 2\n", "[a]\nx = 1\ny = 2\n")), "a.x: nothing, 1");
}

// What a stranger could send: shown, if at all, short and without control characters.
TEST(Difference, AnyTextIsShortAndPrintable) {
  const std::string bytes("[\x1b]\n\x07 = \x00\x1b[31m\n", 15);
  EXPECT_EQ(shown(first_difference("", bytes)).find_first_of(std::string("\x1b\x07\0\n", 4)),
            std::string::npos);
  const std::string lengthy = "x = " + std::string(100'000, 'y');
  EXPECT_LT(shown(first_difference(lengthy, "")).size(), 300u);
  EXPECT_EQ(shown(first_difference("no key", "[]]\n = ")), "].: nothing, ");
}

}  // namespace
}  // namespace furrow::config
