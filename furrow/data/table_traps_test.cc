// Columns that would silently become categories or numbers are named, with what to do.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/data/dataset.h"
#include "furrow/data/table_summary.h"
#include "furrow/data/test_files.h"
#include "furrow/data/test_tables.h"
#include "furrow/preprocess/table_encoder.h"

namespace furrow::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ReadBuffers;
using testing::TempFolder;

// A table with an ordinary column, one of what `value` says of a row, and a class.
std::string table_of(int rows, const std::function<std::string(int)>& value) {
  std::string text = "size;x;y\n";
  for (int i = 0; i < rows; ++i)
    text += fmt::format("{};{};{}\n", i % 7 * 0.5, value(i), i % 3 == 0 ? "no" : "yes");
  return text;
}

class TableTraps : public ::testing::Test {
 protected:
  DatasetOptions options(const std::string& text) {
    DatasetOptions options = testing::table_options(folder_.write("t.csv", text), "y");
    options.table_format.delimiter = ';';
    return options;
  }
  static std::string message_of(const DatasetOptions& options) { return testing::message_of(options); }
  std::string message_of(int rows, const std::function<std::string(int)>& value) {
    return message_of(options(table_of(rows, value)));
  }
  static std::shared_ptr<const preprocess::TableEncoder> fitted(const Dataset& dataset) {
    return preprocess::load_as<preprocess::TableEncoder>(dataset.preprocessing);
  }

  TempFolder folder_;
};

TEST_F(TableTraps, ADecimalCommaIsNoCategory) {
  const auto value = [](int i) { return i % 10 == 0 ? fmt::format("{}", i) : fmt::format("{},25", i % 40); };
  const std::string said = message_of(200, value);
  EXPECT_THAT(said, AllOf(HasSubstr("t.csv: column 'x' has values such as '"), HasSubstr("decimal comma"),
                          HasSubstr("data.decimal = \",\""), HasSubstr("data.categorical_columns")));
  DatasetOptions read = options(table_of(200, value));
  read.table_rules.decimal = ',';
  EXPECT_THAT(message_of(read), HasSubstr("column 'size' has values such as '0.5', which is a number with a "
                                          "decimal point: set data.decimal = \".\""));
  read.table_format.ignored = {"size"};
  const Dataset comma = open_dataset(read);
  // The same numbers with a point have the same bits.
  DatasetOptions point = options(table_of(200, [&](int i) {
    std::string text = value(i);
    std::ranges::replace(text, ',', '.');
    return text;
  }));
  point.table_format.ignored = {"size"};
  EXPECT_EQ(comma.preprocessing, open_dataset(point).preprocessing);
  EXPECT_TRUE(fitted(comma)->features()[0].is_number);
  DatasetOptions listed = options(table_of(200, value));
  listed.table_rules.categorical = {"x"};
  EXPECT_EQ(message_of(listed), "no error");
}

TEST_F(TableTraps, NumbersAsPeopleWriteThemAreNoCategories) {
  EXPECT_THAT(message_of(100, [](int i) { return fmt::format("{},{:03}", 1 + i % 9, i); }),
              AllOf(HasSubstr("decimal comma or with its thousands set off")));
  EXPECT_THAT(message_of(100, [](int i) { return fmt::format("{}.000,{}", 1 + i % 9, i); }),
              HasSubstr("thousands set off: write it without"));
  EXPECT_THAT(message_of(100, [](int i) { return fmt::format("${}.5", i % 30); }), HasSubstr("with a unit"));
  EXPECT_THAT(message_of(100, [](int i) { return fmt::format("{} %", i % 30); }), HasSubstr("with a unit"));
  EXPECT_THAT(message_of(100, [](int i) { return fmt::format("{:02}:30", i % 24); }),
              HasSubstr("time of day"));
  EXPECT_EQ(message_of(100, [](int i) { return fmt::format("room {}", i % 30); }), "no error");
  // One in ten may be anything else.
  EXPECT_THAT(
      message_of(100,
                 [](int i) { return i % 30 < 3 ? fmt::format("k{}", i % 30) : fmt::format("{},5", i % 30); }),
      HasSubstr("decimal comma"));
  EXPECT_EQ(
      message_of(100,
                 [](int i) { return i % 30 < 4 ? fmt::format("k{}", i % 30) : fmt::format("{},5", i % 30); }),
      "no error");
}

TEST_F(TableTraps, TheTargetToo) {
  std::string text = "a;y\n";
  for (int i = 0; i < 50; ++i) text += fmt::format("{};{},5\n", i % 5, i % 4);
  DatasetOptions read = options(text);
  EXPECT_THAT(message_of(read), HasSubstr("the target 'y' has values such as '0,5'"));
  read.table_rules.number_target = true;
  EXPECT_THAT(message_of(read),
              AllOf(HasSubstr("column 'y', row 1: '0,5' looks like a number with a decimal comma")));
  read.table_rules.decimal = ',';
  EXPECT_EQ(message_of(read), "no error");
}

std::string date_of(int i) { return fmt::format("2024-{:02}-{:02}", 1 + i / 28 % 12, 1 + i % 28); }

TEST_F(TableTraps, DatesAreDaysOrRefused) {
  EXPECT_THAT(message_of(100, date_of),
              AllOf(HasSubstr("column 'x' has values such as '2024-01-01'"), HasSubstr("data.date_columns")));
  EXPECT_THAT(message_of(100, [](int i) { return fmt::format("{}.1.2024", 1 + i % 28); }),
              HasSubstr("write it as 2024-12-31"));
  DatasetOptions read = options(table_of(100, [](int i) { return i == 5 ? "?" : date_of(i); }));
  read.table_rules.dates = {"x"};
  const Dataset dataset = open_dataset(read);
  const auto encoder = fitted(dataset);
  EXPECT_TRUE(encoder->features()[1].is_date);
  EXPECT_TRUE(encoder->features()[1].indicator);
  EXPECT_EQ(dataset.preprocessing.at("feature.0001").substr(0, 7), "date\nx\n");
  const auto first = static_cast<float>((19723 - encoder->features()[1].mean) / encoder->features()[1].std);
  ReadBuffers buffers(*dataset.train, 1);
  dataset.train->read(std::vector<int64_t>{0}, buffers.views);
  EXPECT_EQ(buffers.views[0].as<float>()[1], first);
  // A saved model reads dates whatever the keys say.
  DatasetOptions later = options(table_of(100, date_of));
  EXPECT_EQ(open_dataset(later, &dataset.preprocessing).preprocessing, dataset.preprocessing);
  later = options(table_of(100, [](int i) { return i == 7 ? "2024-02-30" : date_of(i); }));
  EXPECT_THAT(([&] {
                try {
                  open_dataset(later, &dataset.preprocessing);
                } catch (const Error& error) {
                  return std::string(error.what());
                }
                return std::string();
              }()),
              HasSubstr("column 'x', row 8: '2024-02-30' is no date"));
  later.table_rules.dates = {"x"};
  EXPECT_THAT(message_of(later), HasSubstr("column 'x', row 8: '2024-02-30' is no date"));
  later.table_rules.dates = {"y"};
  EXPECT_THAT(message_of(later), HasSubstr("a date is no target"));
  later.table_rules.dates = {"xx"};
  EXPECT_THAT(message_of(later), HasSubstr("unknown column in data.date_columns 'xx'"));
  later.table_rules.dates = later.table_rules.numeric = {"x"};
  EXPECT_THAT(message_of(later), HasSubstr("in data.numeric_columns and in data.date_columns"));
}

TEST_F(TableTraps, NamesAndIdsAreNoCategories) {
  const auto name = [](int i) { return fmt::format("n{}", i); };
  EXPECT_THAT(message_of(50, name),
              AllOf(HasSubstr("column 'x' has 50 different texts in 50 rows"),
                    HasSubstr("data.ignore_columns"), HasSubstr("data.categorical_columns")));
  EXPECT_EQ(message_of(19, name), "no error") << "too few to tell";
  EXPECT_EQ(message_of(50, [](int i) { return fmt::format("n{}", i % 44); }), "no error") << "88 % different";
  EXPECT_THAT(message_of(50, [](int i) { return fmt::format("n{}", i % 45); }),
              HasSubstr("45 different texts"));
  EXPECT_THAT(message_of(50, [](int) { return ""; }), HasSubstr("column 'x' has no value in any row"));
  DatasetOptions listed = options(table_of(50, name));
  listed.table_rules.categorical = {"x"};
  EXPECT_EQ(message_of(listed), "no error");
}

TEST_F(TableTraps, WholeNumbersThatAreIdsAreWarnedOf) {
  const auto warned = [&](const DatasetOptions& read) {
    ::testing::internal::CaptureStderr();
    open_dataset(read);
    return ::testing::internal::GetCapturedStderr();
  };
  const auto id = [](int i) { return fmt::format("{}", 1000 + 17 * i % 40'009); };
  const auto with = [&](int rows, const std::function<std::string(int)>& value) {
    return warned(options(table_of(rows, value)));
  };
  EXPECT_THAT(with(200, id), AllOf(HasSubstr("column 'x' has another whole number in nearly every row"),
                                   HasSubstr("data.ignore_columns"), HasSubstr("data.numeric_columns")));
  EXPECT_THAT(with(40'000, id), HasSubstr("column 'x' has another whole number"));
  EXPECT_THAT(with(200, [](int i) { return fmt::format("{}.5", i); }), IsEmpty());
  EXPECT_THAT(with(40'000, [](int i) { return fmt::format("{}.5", i); }), IsEmpty());
  EXPECT_THAT(with(200, [](int i) { return fmt::format("{}", i % 100); }), IsEmpty());
  EXPECT_THAT(with(40'000, [](int i) { return fmt::format("{}", i % 30'000); }), IsEmpty());
  DatasetOptions listed = options(table_of(200, id));
  listed.table_rules.numeric = {"x"};
  EXPECT_THAT(warned(listed), IsEmpty());
}

TEST(WholeNumbers, AreCountedWithinThreePerCentInAnyOrder) {
  for (const size_t rows : {10ul, 1000ul, 20'000ul, 300'000ul}) {
    std::vector<double> numbers(rows);
    for (size_t i = 0; i < rows; ++i) numbers[i] = static_cast<double>(i * 7);
    const auto column = [](const std::vector<double>& of) {
      BlockColumn column;
      column.cells = reinterpret_cast<const std::byte*>(of.data());
      return column;
    };
    WholeNumbers all, front, back;
    all.add(column(numbers), rows);
    EXPECT_NEAR(all.different() / static_cast<double>(rows), 1, 0.03) << rows;
    const std::vector<double> tail(numbers.begin() + static_cast<long>(rows / 3), numbers.end());
    back.add(column(tail), tail.size());
    front.add(column(numbers), rows / 3);
    back.add(front);
    EXPECT_EQ(back.different(), all.different());
    all.add(column(numbers), rows);
    EXPECT_EQ(back.different(), all.different()) << "again the same numbers";
    EXPECT_TRUE(all.all_whole());
    numbers.back() += 0.5;
    all.add(column(numbers), rows);
    EXPECT_FALSE(all.all_whole());
  }
}

}  // namespace
}  // namespace furrow::data
