#include "furrow/preprocess/table_encoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace furrow::preprocess {
namespace {

const double kMissing = std::nan("");

TableEncoder sample() {
  return TableEncoder(
      {{.name = "age", .mean = 40, .std = 10, .indicator = true},
       {.name = "job \\ \"odd\"\nname", .is_number = false, .values = {"", "a\nb", "c\\d", "e"}},
       {.name = "hours", .mean = 1.5, .std = 0.25}},
      {.name = "income", .labels = {"<=50K", ">50K"}});
}

std::vector<float> row(const TableEncoder& encoder, std::vector<TableEncoder::Cell> cells) {
  std::vector<float> out(static_cast<size_t>(encoder.width()), 99);
  encoder.expand(cells, out);
  return out;
}

TEST(TableEncoder, RowsBecomeInputs) {
  const TableEncoder encoder = sample();
  EXPECT_EQ(encoder.width(), 7);
  EXPECT_EQ(encoder.outputs(), 2);
  const auto job = [&](const char* value) { return *encoder.category_cell(1, value); };
  EXPECT_EQ(row(encoder, {encoder.number_cell(0, 55), job("c\\d"), encoder.number_cell(2, 1)}),
            (std::vector<float>{1.5, 0, 0, 0, 1, 0, -2}));
  EXPECT_EQ(row(encoder, {encoder.number_cell(0, kMissing), job(""), encoder.number_cell(2, kMissing)}),
            (std::vector<float>{0, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(row(encoder, {encoder.number_cell(0, 40), TableEncoder::kUnseen, encoder.number_cell(2, 1.5)}),
            (std::vector<float>{0, 0, 0, 0, 0, 0, 0}));
  EXPECT_FALSE(encoder.category_cell(1, "z").has_value());
  EXPECT_EQ(encoder.label_of(">50K"), 1);
  EXPECT_FALSE(encoder.label_of(">50K.").has_value());
}

TEST(TableEncoder, IsASavedValue) {
  const TableEncoder encoder = sample();
  const auto loaded = load_as<TableEncoder>(encoder.state());
  EXPECT_EQ(loaded->features(), encoder.features());
  EXPECT_EQ(loaded->target(), encoder.target());
  EXPECT_EQ(loaded->state(), encoder.state());
  const TableEncoder number({{.name = "x", .mean = 0.1, .std = 1e-9}},
                            {.name = "y", .is_number = true, .mean = 3, .std = 2});
  const auto again = load_as<TableEncoder>(number.state());
  EXPECT_EQ(again->state(), number.state());
  EXPECT_EQ(again->outputs(), 1);
  EXPECT_EQ(again->number_target(7), 2.0f);
}

TEST(TableEncoder, DamagedStatesAreRefused) {
  const State good = sample().state();
  const auto refused = [&](const std::string& key, const std::string& value) {
    State state = good;
    state[key] = value;
    EXPECT_THROW(load(state), Error) << key << ": " << value;
  };
  for (const char* key : {"feature.0000", "target"}) {
    for (const char* value : {"", "number", "number\nx", "number\nx\n1", "number\nx\n1 0 0",
                              "number\nx\n1 nan 0", "number\nx\n1 2 0 4", "number\nx\n1 2 0\n", "word\nx\na",
                              "category\nx\nb\na", "category\nx\na\na", "class\nx", "class\nx\n\\q"}) {
      refused(key, value);
    }
  }
  State none = good;
  none.erase("feature.0000");
  EXPECT_THROW(load(none), Error);
  none = good;
  none.erase("target");
  EXPECT_THROW(load(none), Error);
}

TEST(Moments, AreExactAndIgnoreWhatIsMissing) {
  const std::vector<double> values{1, kMissing, 2, 3, 4};
  EXPECT_EQ(moments_of(values).mean, 2.5);
  EXPECT_DOUBLE_EQ(moments_of(values).std, std::sqrt(1.25));
  const std::vector<double> wild{1e16, 1, -1e16, 1}, turned{1, -1e16, 1, 1e16};
  EXPECT_EQ(moments_of(wild).mean, 0.5);
  EXPECT_EQ(moments_of(wild).std, moments_of(turned).std);
  EXPECT_EQ(moments_of(std::vector<double>{7, 7}).std, 1);
  EXPECT_EQ(moments_of(std::vector<double>{kMissing}).mean, 0);
  EXPECT_EQ(moments_of({}).std, 1);
}

}  // namespace
}  // namespace furrow::preprocess
