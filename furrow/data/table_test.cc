// Tables: what columns become, splits, fitted values, and one clear line for each kind of bad row.
#include "furrow/data/table.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/process.h"
#include "furrow/data/dataset.h"
#include "furrow/data/test_files.h"
#include "furrow/data/test_tables.h"
#include "furrow/preprocess/class_names.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::ReadBuffers;
using testing::table_options;
using testing::TempFolder;

struct Row {
  std::vector<float> input;
  double target;
};

Row row(const Source& source, int64_t index) {
  ReadBuffers buffers(source, 1);
  source.read(std::vector<int64_t>{index}, buffers.views);
  const auto input = buffers.views[0].as<float>();
  const bool number = source.fields()[1].dtype == DType::kF32;
  return {{input.begin(), input.end()},
          number ? double{buffers.views[1].as<float>()[0]}
                 : static_cast<double>(buffers.views[1].as<int64_t>()[0])};
}

constexpr const char* kSmall =
    "age,job,hours,income\n"
    "30, clerk,40,low\n"
    "50,?,20,high\n"
    "?,\"cook, chef\",30,low\n"
    "40,clerk,30,high\n";

TEST(Tables, ColumnsBecomeInputs) {
  const TempFolder folder;
  const DatasetOptions options = table_options(folder.write("t.csv", kSmall), "income");
  const Dataset dataset = open_dataset(options);
  ASSERT_EQ(dataset.train->size(), 4);
  EXPECT_EQ(dataset.train->classes(), 2);
  EXPECT_EQ(dataset.train->fields(),
            (std::vector<Field>{{"input", DType::kF32, {6}}, {"target", DType::kI64, {}}}));
  const float deviation = static_cast<float>(10 / std::sqrt(200.0 / 3));  // age: mean 40
  // age, age missing, job missing, clerk, cook, hours
  const float hours = static_cast<float>(10 / std::sqrt(50.0));
  EXPECT_EQ(row(*dataset.train, 0).input, (std::vector<float>{-deviation, 0, 0, 1, 0, hours}));
  EXPECT_EQ(row(*dataset.train, 1).input, (std::vector<float>{deviation, 0, 1, 0, 0, -hours}));
  EXPECT_EQ(row(*dataset.train, 2).input, (std::vector<float>{0, 1, 0, 0, 1, 0}));
  EXPECT_EQ(row(*dataset.train, 0).target, 1);  // "high" comes before "low"
  EXPECT_EQ(row(*dataset.train, 1).target, 0);
  const auto encoder = preprocess::load_as<preprocess::TableEncoder>(dataset.preprocessing);
  EXPECT_THAT(encoder->target().labels, ElementsAre("high", "low"));
  EXPECT_THAT(encoder->features()[1].values, ElementsAre("", "clerk", "cook, chef"));
  EXPECT_EQ(dataset.preprocessing.at("classes"), "2");
  const DataInfo info = probe(options);
  EXPECT_EQ(info.fields, dataset.train->fields());
  EXPECT_EQ(info.train_samples, 4);
}

TEST(Tables, ATargetMayBeANumber) {
  const TempFolder folder;
  DatasetOptions options = table_options(folder.write("t.csv", kSmall), "hours");
  options.table_rules.number_target = true;
  const Dataset dataset = open_dataset(options);
  EXPECT_THAT(preprocess::class_names(dataset.preprocessing), ElementsAre());
  EXPECT_EQ(dataset.train->fields()[1], (Field{"target", DType::kF32, {1}}));
  EXPECT_EQ(dataset.train->classes(), 1);
  EXPECT_FLOAT_EQ(static_cast<float>(row(*dataset.train, 0).target),
                  static_cast<float>(10 / std::sqrt(50.0)));
  EXPECT_EQ(row(*dataset.train, 3).target, 0);
  options.table_rules.target = "income";
  const std::string said = message_of(options);
  EXPECT_THAT(said, AllOf(HasSubstr("'low' is no number"), HasSubstr("training.loss = cross_entropy")));
  options.table_rules.categorical = {"income"};  // changes nothing of a target
  EXPECT_EQ(message_of(options), said);
}

// 1,000 rows: x is the number of the row, y a class.
std::string numbered(int rows) {
  std::string text = "x,c,y\n";
  for (int i = 0; i < rows; ++i) {
    text += std::to_string(i) + "," + "abc"[i % 3] + "," + (i % 5 == 0 ? "p" : "q") + "\n";
  }
  return text;
}

TEST(Tables, SplitsAreDisjointCompleteAndFittedOnTraining) {
  const TempFolder folder;
  DatasetOptions options = table_options(folder.write("t.csv", numbered(1000)), "y");
  options.validation_fraction = 0.2;
  options.test_fraction = 0.1;
  const Dataset dataset = open_dataset(options);
  ASSERT_EQ(dataset.train->size(), 700);
  ASSERT_EQ(dataset.validation->size(), 200);
  ASSERT_EQ(dataset.test->size(), 100);
  const auto encoder = preprocess::load_as<preprocess::TableEncoder>(dataset.preprocessing);
  const preprocess::TableFeature& x = encoder->features()[0];
  std::set<long> seen;
  double sum = 0, squares = 0;
  for (const Source* source : {dataset.train.get(), dataset.validation.get(), dataset.test.get()}) {
    for (int64_t i = 0; i < source->size(); ++i) {
      const Row got = row(*source, i);
      const long number = std::lround(double{got.input[0]} * x.std + x.mean);
      EXPECT_TRUE(seen.insert(number).second);
      EXPECT_EQ(got.target, number % 5 == 0 ? 0 : 1);
      EXPECT_EQ(got.input[static_cast<size_t>(1 + number % 3)], 1);
      if (source != dataset.train.get()) continue;
      sum += got.input[0];
      squares += double{got.input[0]} * got.input[0];
    }
  }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_NEAR(sum / 700, 0, 1e-6);
  EXPECT_NEAR(squares / 700, 1, 1e-6);
  DatasetOptions other = options;
  other.seed = 4;
  EXPECT_NE(open_dataset(other).preprocessing, dataset.preprocessing);
  EXPECT_EQ(open_dataset(options, &dataset.preprocessing).preprocessing, dataset.preprocessing);
  options.validation_fraction = 0.95;
  EXPECT_THAT(message_of(options), HasSubstr("leave nothing to train on"));
}

TEST(Tables, ATestFileOfItsOwnIsReadBeforeTraining) {
  const TempFolder folder;
  folder.write("train.csv", kSmall);
  folder.write("test.csv", "age,job,hours,income\n35,clerk,10,high\n");
  DatasetOptions options = table_options(folder.path(), "income");
  EXPECT_THAT(message_of(options), HasSubstr("name the table in it with [data] train_table"));
  options.table_train = "train.csv";
  options.table_test = "test.csv";
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(dataset.test->size(), 1);
  EXPECT_EQ(row(*dataset.test, 0).target, 0);
  folder.write("test.csv", "age,job,hours,income\n35,pilot,10,high\n");
  EXPECT_THAT(
      message_of([&] { open_dataset(options); }),
      AllOf(HasSubstr("test.csv"), HasSubstr("column 'job', row 1: category 'pilot' was not in the training "
                                             "data, which has , clerk, cook, chef")));
  options.table_rules.ignore_unseen = true;
  const std::vector<float> unseen = row(*open_dataset(options).test, 0).input;
  EXPECT_EQ(std::vector<float>(unseen.begin() + 2, unseen.begin() + 5), (std::vector<float>{0, 0, 0}));
  options.test_fraction = 0.1;
  EXPECT_THAT(message_of(options), HasSubstr("both make a test split"));
}

// A file without the byte in front that says to the fuzzer what it is.
std::string corpus(const std::string& name) {
  std::ifstream in(furrow::testing::source_root() / "furrow/data/table_fuzz_corpus" / (name + ".parquet"),
                   std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  EXPECT_FALSE(bytes.empty());
  return bytes.empty() ? bytes : bytes.substr(1);
}

// A column with so many numbers, then texts.
std::string column_of(int numbers, int texts) {
  std::string text = "a,y\n";
  for (int i = 0; i < numbers; ++i) text += fmt::format("{}.5,p\n", i);
  for (int i = 0; i < texts; ++i) text += "hello,p\n";
  return text;
}

TEST(Tables, EachBadRowIsOneClearLine) {
  const TempFolder folder;
  const auto with = [&](const std::string& text, const std::string& target = "y") {
    return message_of(table_options(folder.write("bad.csv", text), target));
  };
  EXPECT_THAT(with("a,b,y\n1,2,p\n1,p\n"),
              AllOf(HasSubstr("bad.csv: row 2: Expected 3 columns, got 2"), HasSubstr("data.delimiter")));
  EXPECT_THAT(with("a,b,y\n1,2,p\n1,2,3,p\n"), HasSubstr("Expected 3 columns, got 4"));
  std::string text = "a,y\n";
  for (int i = 0; i < 20; ++i) text += i == 12 ? "oops,p\n" : "1.5,p\n";
  EXPECT_THAT(with(text), AllOf(HasSubstr("column 'a', row 13: 'oops' is no number"),
                                HasSubstr("data.categorical_columns")));
  // At the bounds: nine of ten, all but one of five; below them texts are categories.
  EXPECT_THAT(with(column_of(18, 2)), HasSubstr("column 'a', row 19: 'hello' is no number"));
  EXPECT_EQ(with(column_of(17, 2)), "no error");
  EXPECT_THAT(with(column_of(4, 1)), HasSubstr("column 'a', row 5: 'hello' is no number"));
  EXPECT_EQ(with(column_of(3, 1)), "no error");
  EXPECT_THAT(with("a,y\n1,p\n2,?\n"), HasSubstr("column 'y', row 2: the target is missing"));
  EXPECT_THAT(with("a,y\n1,p\n", "z"), HasSubstr("unknown column in data.target 'z'"));
  EXPECT_THAT(with("a,y\n1,p\n", ""), HasSubstr("data.target is empty"));
  EXPECT_THAT(with("a,a,y\n1,2,p\n"), HasSubstr("same name, 'a': rename"));
  EXPECT_THAT(with("y\np\n"), HasSubstr("no column besides the target"));
  EXPECT_THAT(with("a,y\n"), HasSubstr("there are no rows"));
  EXPECT_THAT(with(""), HasSubstr("no first line"));
  EXPECT_THAT(with("a,y\n\"1,p\n"), HasSubstr("bad.csv"));
  EXPECT_THAT(with("a,y\n1,\xff\xfe\n"), HasSubstr("bad.csv"));
  EXPECT_THAT(with("\xff\xfe"
                   "a"),
              HasSubstr("save it as UTF-8"));
  EXPECT_THAT(with(corpus("plain")), HasSubstr("a name that ends in .parquet"));
  EXPECT_THAT(with("a,y\n1e308,p\n1.5e308,q\n"),
              AllOf(HasSubstr("bad.csv: column 'a' has numbers so large"), HasSubstr("larger units")));
  EXPECT_THAT(with("a,y\n1e200,p\n-1e200,q\n"), HasSubstr("column 'a' has numbers so large"));
  std::string names = "a,y\n";
  for (int i = 0; i < 1100; ++i) names += fmt::format("n{},p\n", i);
  EXPECT_THAT(with(names), HasSubstr("column 'a' has 1100 different texts"));
  DatasetOptions options = table_options(folder.write("t.csv", "a,y\n1,p\nx,p\n"), "y");
  options.table_rules.numeric = {"a"};
  EXPECT_THAT(message_of(options), HasSubstr("column 'a', row 2: 'x' is no number"));
  options.table_rules.numeric = {"aa"};
  EXPECT_THAT(message_of(options), HasSubstr("did you mean 'a'"));
  options = table_options(folder.write("t.csv", "a,b,y\n1,2,p\n2,2,q\n"), "y");
  options.table_format.ignored = {"b", "zz"};
  EXPECT_THAT(message_of(options), HasSubstr("unknown column in data.ignore_columns 'zz'"));
  EXPECT_THAT(message_of(table_options(folder / "none.csv", "y"), ErrorCode::kNotFound),
              HasSubstr("none.csv"));
}

TEST(Tables, FormatsOfCsv) {
  const TempFolder folder;
  DatasetOptions options = table_options(folder.write("t.csv", "1;x.\n2;y\n"), "label");
  options.table_format = {.delimiter = ';', .names = {"n", "label"}};
  options.table_rules.trim = " .";
  const auto state = open_dataset(options).preprocessing;
  EXPECT_THAT(preprocess::load_as<preprocess::TableEncoder>(state)->target().labels, ElementsAre("x", "y"));
  options.table_rules.categorical = {"n"};
  EXPECT_EQ(open_dataset(options).train->fields()[0].shape, (Shape{2}));
  options =
      table_options(folder.write("u.csv", "\xEF\xBB\xBF\"a \"\"q\"\"\",b,y\r\n1,2,p\r\n\r\n3,4,q\r\n"), "y");
  options.table_format.ignored = {"b"};
  const Dataset dataset = open_dataset(options);
  EXPECT_EQ(dataset.train->size(), 2);
  EXPECT_EQ(preprocess::load_as<preprocess::TableEncoder>(dataset.preprocessing)->features()[0].name,
            "a \"q\"");
  folder.write("v.csv.gz", testing::gzip_bytes(testing::bytes_of(kSmall)));
  EXPECT_EQ(open_dataset(table_options(folder / "v.csv", "income")).train->size(), 4);
}

// Written by pyarrow 26: numbers, booleans, text, a dictionary, each with missing values; three encodings.
TEST(Tables, ParquetEqualsCsv) {
  const TempFolder folder;
  const auto csv = table_options(
      folder.write("t.csv", "n,f,b,s,d,y\n1,0.5,1,x,u,a\n?,2.5,0,?,v,b\n3,?,?,y\xc3\xa9,u,a\n"), "y");
  const Dataset expected = open_dataset(csv);
  for (const char* name : {"plain", "snappy", "zstd-v2"}) {
    const std::string bytes = corpus(name);
    const auto path = folder.write("t.parquet", bytes);
    const Dataset dataset = open_dataset(table_options(path, "y"));
    EXPECT_EQ(dataset.preprocessing, expected.preprocessing);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(row(*dataset.train, i).input, row(*expected.train, i).input);
      EXPECT_EQ(row(*dataset.train, i).target, row(*expected.train, i).target);
    }
    EXPECT_EQ(open_dataset(table_options(folder.write("T.PQ", bytes), "y")).preprocessing,
              expected.preprocessing);
    const auto cut = folder.write("cut.parquet", bytes.substr(0, bytes.size() - 9));
    EXPECT_THAT(message_of(table_options(cut, "y"), ErrorCode::kDataLoss), HasSubstr("cut.parquet"));
  }
}

std::string testdata(const std::string& name) {
  std::ifstream in(furrow::testing::source_root() / "furrow/data/testdata" / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// `bytes` outlive what is returned.
auto open_bytes(const std::string& bytes, const std::vector<std::string>& ignored = {}) {
  return open_parquet(
      bytes.size(),
      [&bytes](uint64_t offset, std::span<std::byte> out) {
        const std::string part = offset < bytes.size() ? bytes.substr(offset, out.size()) : std::string();
        std::memcpy(out.data(), part.data(), part.size());
        return part.size();
      },
      ignored);
}

TableContents contents_of(const std::string& bytes, const std::vector<std::string>& ignored = {}) {
  const auto file = open_bytes(bytes, ignored);
  TableContents all;
  file->read(0, 100, false, [&](TableContents& contents) {
    all = contents;
    return true;
  });
  return all;
}

// Written by pyarrow 26: each type that can be read, with four values, the second of which is missing.
TEST(Tables, EveryTypeOfParquetIsNumbersDaysOrText) {
  const TableContents all = contents_of(testdata("types.parquet"));
  const auto column = [&](const std::string& name) {
    const auto found = std::ranges::find(all.columns, name, &TableColumn::name);
    EXPECT_NE(found, all.columns.end()) << name;
    return *found;
  };
  EXPECT_EQ(all.columns.size(), 32u);
  for (const TableColumn& each : all.columns) {
    EXPECT_EQ(each.size(), 4u) << each.name;
    EXPECT_EQ(each.valid, (std::vector<uint8_t>{1, 0, 1, 1})) << each.name;
    EXPECT_TRUE(each.is_text || std::isnan(each.numbers[1])) << each.name;
  }
  const auto numbers = [&](const std::string& name, double a, double b, double c, bool date = false) {
    const TableColumn of = column(name);
    EXPECT_FALSE(of.is_text) << name;
    EXPECT_EQ(of.is_date, date) << name;
    EXPECT_EQ(of.numbers[0], a) << name;
    EXPECT_EQ(of.numbers[2], b) << name;
    EXPECT_EQ(of.numbers[3], c) << name;
  };
  numbers("bool", 1, 0, 1);
  numbers("int8", -128, 3, 127);
  numbers("int16", -5, 3, 4);
  numbers("int32", -5, 3, 4);
  numbers("int64", -5, 3, 0x1p53);
  numbers("uint8", 255, 3, 4);
  numbers("uint16", 65535, 3, 4);
  numbers("uint32", 0xFFFFFFFFu, 3, 4);
  numbers("uint64", 0x1p64, 3, 4);
  numbers("float16", 0.5, -65504, 6.103515625e-05);
  numbers("float32", 0.5, -2, double{3e30f});
  numbers("float64", 0.1, -2, 3e300);
  for (const char* name : {"decimal32", "decimal64"}) numbers(name, 3.14, -0.01, 12345.67);
  numbers("decimal128", 3.14, -0.01, 123456789012345678901234567890.12);
  numbers("decimal256", 3.14, -0.01, 1.1111111111111111e59);
  for (const char* name : {"date32", "date64"}) numbers(name, 19782, -1, 1, true);
  for (const char* unit : {"s", "ms", "us", "ns"})
    numbers(std::string("timestamp_") + unit, 19782.5, -0.25, 1 + 1.0 / 86400, true);
  for (const char* name : {"time32", "time64"}) numbers(name, 0.5, 1.0 / 86400, 86399.0 / 86400);
  numbers("number_dictionary", -5, 3, 4);
  for (const char* name : {"string", "large_string", "string_view", "binary", "large_binary", "dictionary",
                           "large_dictionary"}) {
    const TableColumn of = column(name);
    EXPECT_TRUE(of.is_text) << name;
    EXPECT_EQ(of.text, of.is_coded ? "xy" : "xyx") << name;
    const std::vector<std::string_view> rows{of.text_of(0), of.text_of(1), of.text_of(2), of.text_of(3)};
    EXPECT_EQ(rows, (std::vector<std::string_view>{"x", "", "y", "x"})) << name;
  }
}

TEST(Tables, OtherTypesOfParquetAreNamedWithARemedy) {
  const std::string bytes = testdata("unreadable.parquet");
  const std::vector<std::string> all = {"null", "list", "struct", "duration", "fixed", "map"};
  const auto said = [&](const std::string& wanted) {
    std::vector<std::string> others = all;
    std::erase(others, wanted);
    return message_of([&] { contents_of(bytes, others); });
  };
  EXPECT_THAT(said("list"), AllOf(HasSubstr("column 'list' has values of type list<"),
                                  HasSubstr("write its parts as columns of their own, or list it in "
                                            "data.ignore_columns")));
  EXPECT_THAT(said("struct"), HasSubstr("column 'struct' has values of type struct<"));
  EXPECT_THAT(said("map"), HasSubstr("column 'map' has values of type map<"));
  EXPECT_THAT(said("duration"), HasSubstr("write it as a number, such as of seconds"));
  EXPECT_THAT(said("fixed"),
              AllOf(HasSubstr("fixed_size_binary[2]"), HasSubstr("write it as text or numbers")));
  const TempFolder folder;
  DatasetOptions options = table_options(folder.write("t.parquet", bytes), "y");
  options.table_format.ignored = {"list", "struct", "duration", "fixed", "map"};
  EXPECT_THAT(message_of(options), HasSubstr("column 'null' has no value in any row"));
  options.table_format.ignored.emplace_back("null");
  EXPECT_EQ(message_of(options), "no error");
}

// Dates of Parquet and of CSV are the same features; what is fitted on the one reads the other.
TEST(Tables, DatesAreTheSameFromEitherFormat) {
  const TempFolder folder;
  const std::string bytes = testdata("types.parquet");
  std::vector<std::string> others;
  for (const TableColumn& column : contents_of(bytes).columns) {
    if (column.name != "date32" && column.name != "timestamp_ns" && column.name != "float64")
      others.push_back(column.name);
  }
  DatasetOptions parquet = table_options(folder.write("t.parquet", bytes), "float64");
  parquet.table_rules.number_target = true;
  parquet.table_format.ignored = others;
  EXPECT_THAT(message_of(parquet), HasSubstr("column 'float64', row 2: the target is missing"));
  parquet.table_rules.target = "timestamp_ns";
  EXPECT_THAT(message_of(parquet), HasSubstr("the target 'timestamp_ns' holds dates"));
  parquet.table_rules = table_options("", "string").table_rules;
  std::erase(parquet.table_format.ignored, "string");
  parquet.table_rules.missing = {"?"};
  parquet.table_rules.categorical = {"date32"};
  EXPECT_THAT(message_of(parquet), HasSubstr("column 'date32' holds dates, which are read as days"));
}

// The numbers of a Parquet file, and the lengths of its texts.
std::vector<double> parse_parquet(const std::string& bytes) {
  const auto file = open_bytes(bytes);
  std::vector<double> values;
  for (size_t group = 0; group < file->group_rows().size(); ++group) {
    file->read(group, 100, false, [&](TableContents& contents) {
      for (const TableColumn& column : contents.columns) {
        for (size_t row = 0; row < column.size(); ++row)
          values.push_back(column.is_text ? static_cast<double>(column.text_of(row).size())
                                          : column.numbers[row]);
      }
      return true;
    });
  }
  return values;
}

// Every bit of a file's pages, one after the other, flipped: whether it is read to the same values, and
// refused as damaged where it is not read.
struct Flips {
  size_t pages = 0, refused = 0, equal = 0;
};
Flips flip_pages(const std::string& whole) {
  const auto footer =
      static_cast<uint8_t>(whole[whole.size() - 8]) | static_cast<uint8_t>(whole[whole.size() - 7]) << 8;
  Flips flips{whole.size() - 8 - static_cast<size_t>(footer)};
  const std::vector<double> want = parse_parquet(whole);
  for (size_t at = 4; at < flips.pages; ++at) {
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 1 << at % 8);
    try {
      flips.equal += parse_parquet(flipped) == want ? 1 : 0;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << "byte " << at << ": " << error.what();
      ++flips.refused;
    }
  }
  return flips;
}

// Written by pyarrow 26 with write_page_checksum, uncompressed: no page, and no header of one, may change.
TEST(Tables, EveryFlippedBitOfAPageWithAChecksumIsFound) {
  ASSERT_EQ(parse_parquet(corpus("checksum")).size(), 128u);
  const Flips flips = flip_pages(corpus("checksum"));
  EXPECT_EQ(flips.refused + flips.equal, flips.pages - 4) << "equal: a field of a header that nobody reads";
  EXPECT_GT(flips.refused, flips.pages * 9 / 10);
}

// Written by pyarrow 26, uncompressed, without checksums: 40 texts of three values that the file numbers.  A
// number that is none of them is damage.
TEST(Tables, NumbersOfTextsThatAFileDoesNotHaveAreDamage) {
  const std::vector<double> want = parse_parquet(corpus("coded"));
  ASSERT_EQ(want.size(), 80u);
  EXPECT_EQ(std::vector<double>(want.begin(), want.begin() + 8),
            (std::vector<double>{3, 5, 5, 5, 4, 4, 4, 0}));
  std::string fourth = corpus("coded");
  fourth[71] ^= 8;  // a number of a value becomes 3
  try {
    parse_parquet(fourth);
    ADD_FAILURE() << "there are three values";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
    EXPECT_THAT(error.what(), HasSubstr("3 (should be in [0, 2])"));
  }
  const Flips flips = flip_pages(corpus("coded"));
  EXPECT_GT(flips.pages - 4, flips.refused + flips.equal) << "some are other values";
}

TEST(Tables, CommandsWithoutTablesNeedNoArrow) {
  // The library is opened by the first table: a test binary of its own would be needed to see the moment, so
  // the command-line tests look at the processes; here only that it is a library of its own.
  const TempFolder folder;
  open_dataset(table_options(folder.write("t.csv", kSmall), "income"));
  EXPECT_TRUE(library_is_mapped("libfurrow_tables.so"));
  EXPECT_TRUE(library_is_mapped("libarrow.so"));
}

// UCI Adult: 32,561 rows, 7,841 above 50K; 16,281 and 3,846 for the test.
TEST(RealSets, Adult) {
  const auto path = testing::real_data("adult");
  FURROW_NEED_DATA(path, "adult");
  DatasetOptions options = table_options(path, "income");
  options.table_train = "adult-train.csv";
  options.table_test = "adult-test.csv";
  options.table_format.names = {"age",
                                "workclass",
                                "fnlwgt",
                                "education",
                                "education_num",
                                "marital_status",
                                "occupation",
                                "relationship",
                                "race",
                                "sex",
                                "capital_gain",
                                "capital_loss",
                                "hours_per_week",
                                "native_country",
                                "income"};
  options.table_rules.trim = " .";
  const Dataset dataset = open_dataset(options);
  ASSERT_EQ(dataset.train->size(), 32561);
  ASSERT_EQ(dataset.test->size(), 16281);
  for (const auto& [source, expected] : {std::pair(dataset.train.get(), 7841), {dataset.test.get(), 3846}}) {
    std::vector<int64_t> all(static_cast<size_t>(source->size()));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    ReadBuffers buffers(*source, all.size());
    source->read(all, buffers.views);
    int64_t above = 0;
    for (const int64_t label : buffers.views[1].as<int64_t>()) above += label;
    EXPECT_EQ(above, expected);
  }
  // 6 numbers, categories of 9, 16, 7, 15, 6, 5, 2 and 42 values with the missing ones.
  EXPECT_EQ(dataset.train->fields()[0].shape, (Shape{6 + 9 + 16 + 7 + 15 + 6 + 5 + 2 + 42}));
}

}  // namespace
}  // namespace furrow::data
