// Tables read in parts, side by side: the rows, the fitted values and the errors of a table read at once;
// interrupted readings go on.
#include "furrow/data/table_reader.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <set>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"
#include "furrow/data/dataset.h"
#include "furrow/data/pack.h"
#include "furrow/data/pack_work.h"
#include "furrow/data/split.h"
#include "furrow/data/table.h"
#include "furrow/data/test_files.h"
#include "furrow/data/test_packs.h"
#include "tests/testing/fuzz_replay.h"

namespace furrow::data {
namespace {

using preprocess::TableFeature;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ReadBuffers;
using testing::TempFolder;

using Table = std::vector<std::vector<std::string>>;  // rows of texts

// Numbers of many and of few values, categories that look like numbers, texts with all that quotes hold.
Table made_up(int rows) {
  std::mt19937 random(11);
  Table table;
  for (int i = 0; i < rows; ++i) {
    const int pick = static_cast<int>(random() % 7);
    table.push_back({random() % 20 == 0 ? "?" : fmt::format("{}.{:03}", i * 7 % 5000, i % 1000),
                     random() % 30 == 0 ? "NA" : fmt::format("{}", pick - 3),
                     std::vector<std::string>{"012", "12", "12.0", "a,b", "say \"x\"", "two\nlines",
                                              "\u00e9"}[static_cast<size_t>(pick)],
                     fmt::format("{}", i % 4), i % 3 == 0 ? "yes" : "no"});
  }
  return table;
}
const std::vector<std::string> kNames{"x", "few", "text", "code", "y"};

std::string csv_of(const Table& table, bool header = true) {
  std::string text = header ? join(kNames, ",") + "\n" : "";
  for (size_t row = 0; row < table.size(); ++row) {
    for (size_t c = 0; c < table[row].size(); ++c) {
      std::string value = table[row][c];
      if (value.find_first_of(",\"\n") != value.npos) {
        for (size_t at = value.find('"'); at != value.npos; at = value.find('"', at + 2))
          value.insert(at, 1, '"');
        value = "\"" + value + "\"";
      }
      text += (c == 0 ? "" : ",") + value;
    }
    text += row % 5 == 0 ? "\r\n" : "\n";
    if (row % 50 == 0) text += "\n";  // nothing
  }
  return text;
}

DatasetOptions options_of(const std::filesystem::path& path) {
  DatasetOptions options{.kind = "table", .path = path, .validation_fraction = 0.2, .seed = 3};
  options.test_fraction = 0.1;
  options.table_rules.target = "y";
  options.table_rules.missing = {"?", "NA"};
  options.table_rules.categorical = {"code"};
  options.opening.threads = 1;
  return options;
}

// What is fitted, by the definition: all values at once.
Preprocessing reference(const Table& table, const DatasetOptions& options) {
  const auto rows = static_cast<int64_t>(table.size());
  const auto count = [&](double fraction) {
    return static_cast<int64_t>(std::ceil(fraction * static_cast<double>(rows) - 1e-6));
  };
  const Carved kept =
      carve(rows, count(options.validation_fraction) + count(options.test_fraction), options.seed);
  std::vector<TableFeature> features;
  for (size_t c = 0; c < 2; ++c) {
    std::vector<double> values;
    for (const uint32_t row : kept.train) {
      double value = std::nan("");
      parse_double(table[row][c], value);
      values.push_back(value);
    }
    const preprocess::Moments moments = preprocess::moments_of(values);
    const bool missing = std::ranges::any_of(values, [](double value) { return std::isnan(value); });
    features.push_back({.name = kNames[c], .mean = moments.mean, .std = moments.std, .indicator = missing});
  }
  for (size_t c = 2; c < 4; ++c) {
    std::set<std::string> values;
    for (const auto& row : table) values.insert(row[c]);
    features.push_back({.name = kNames[c], .is_number = false, .values = {values.begin(), values.end()}});
  }
  auto state = preprocess::TableEncoder(features, {.name = "y", .labels = {"no", "yes"}}).state();
  state["classes"] = "2";
  return state;
}

std::vector<uint8_t> bytes_of(const Source& source) {
  std::vector<uint8_t> all;
  const auto rows = static_cast<size_t>(source.size());
  ReadBuffers buffers(source, rows);
  std::vector<int64_t> indices(rows);
  for (size_t i = 0; i < rows; ++i) indices[i] = static_cast<int64_t>((i * 7919) % rows);
  source.read(indices, buffers.views);
  for (const ArrayView& view : buffers.views) {
    const auto bytes = view.as<uint8_t>();
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

std::vector<std::vector<uint8_t>> splits_of(const Dataset& dataset) {
  return {bytes_of(*dataset.train), bytes_of(*dataset.validation), bytes_of(*dataset.test)};
}

TEST(TableReading, PartsAndThreadsChangeNothing) {
  const TempFolder folder;
  const Table table = made_up(3000);
  DatasetOptions options = options_of(folder.write("t.csv", csv_of(table)));
  const Dataset whole = open_dataset(options);  // one part
  EXPECT_EQ(whole.preprocessing, reference(table, options));
  const auto want = splits_of(whole);
  for (const size_t part_bytes : {1, 100, 5000, 40'000}) {
    for (const int threads : {1, 2, 5}) {
      for (const bool kept : {false, true}) {
        options.opening = {.threads = threads, .table_part_bytes = part_bytes};
        if (kept) options.opening.spool = folder / fmt::format("kept-{}-{}", part_bytes, threads);
        const Dataset dataset = open_dataset(options);
        EXPECT_EQ(dataset.preprocessing, whole.preprocessing);
        EXPECT_EQ(splits_of(dataset), want) << part_bytes << " " << threads << " " << kept;
      }
    }
  }
  Table other = table;
  other[1234][0] = "17";
  EXPECT_NE(splits_of(open_dataset(options_of(folder.write("u.csv", csv_of(other))))), want) << "control";
}

TEST(TableReading, PartsInAFolderAreOneTable) {
  const TempFolder folder;
  const Table table = made_up(1000);
  const auto want = splits_of(open_dataset(options_of(folder.write("t.csv", csv_of(table)))));
  std::filesystem::create_directory(folder / "parts");
  for (size_t part = 0; part < 11; ++part) {  // part-10 comes last; part-3 has no rows
    const size_t begin = part < 3 ? part * 90 : part == 3 ? 270 : (part - 1) * 90;
    const size_t end = part == 3 ? begin : part == 10 ? 1000 : begin + 90;
    folder.write(
        fmt::format("parts/part-{}.csv", part),
        csv_of(Table(table.begin() + static_cast<long>(begin), table.begin() + static_cast<long>(end))));
  }
  folder.write("parts/_SUCCESS", "");
  for (const int threads : {1, 3}) {
    DatasetOptions options = options_of(folder / "parts");
    options.opening = {.threads = threads, .table_part_bytes = 700};
    EXPECT_EQ(guess_kind(options.path), "table");
    EXPECT_EQ(splits_of(open_dataset(options)), want);
    options.path = folder.path();
    options.table_train = "parts";
    EXPECT_EQ(splits_of(open_dataset(options)), want);
    options.table_train = "parts/part-*.csv";
    EXPECT_EQ(splits_of(open_dataset(options)), want);
  }
  const auto message = [&](const DatasetOptions& options) {
    try {
      open_dataset(options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  DatasetOptions options = options_of(folder / "parts");
  folder.write("parts/part-11.csv", "x,few,text,y\n1,2,a,no\n");
  EXPECT_THAT(message(options), AllOf(HasSubstr("part-11.csv"), HasSubstr("no column 'code', but"),
                                      HasSubstr("part-0.csv has")));
  folder.write("parts/part-11.csv", "x,few,text,code,y,z\n1,2,a,1,no,3\n");
  EXPECT_THAT(message(options), HasSubstr("part-0.csv has no column 'z'"));
  folder.write("parts/part-11.csv", "y,code,text,few,x\nno,1,12\nno,1,12,2,3\n");
  EXPECT_THAT(message(options),
              AllOf(HasSubstr("part-11.csv: row 1: "), HasSubstr("Expected 5 columns, got 3")));
  folder.write("parts/part-11.csv", "y,code,text,few,x\nno,1,12,2,3\n");
  EXPECT_EQ(open_dataset(options).train->size(), 1001 - 201 - 101) << "columns in another order";
  folder.write("parts/test.csv", "x\n");
  EXPECT_THAT(message(options), AllOf(HasSubstr("part-0.csv and test.csv"), HasSubstr("train_table")));
}

// The first of several bad rows is named, by its number in the file, whoever reads it.
TEST(TableReading, ABadRowDeepInAFileHasItsNumber) {
  const TempFolder folder;
  const std::string header = join(kNames, ",") + "\n";
  const auto message = [&](const Table& table, const std::string& bad, size_t at,
                           const DatasetOptions& more) {
    const Table front(table.begin(), table.begin() + static_cast<long>(at));
    const Table back(table.begin() + static_cast<long>(at), table.end());
    DatasetOptions options = more;
    options.path =
        folder.write("t.csv", header + csv_of(front, false) + bad + "\n" + csv_of(back, false) + "1,2\n");
    try {
      open_dataset(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const Table table = made_up(5000);
  for (const int threads : {1, 4}) {
    DatasetOptions options = options_of({});
    options.opening = {.threads = threads, .table_part_bytes = 3000};
    const auto bad = [&](const std::string& row) { return message(table, row, 3210, options); };
    EXPECT_THAT(bad("1,2,a,no"), AllOf(HasSubstr("t.csv: row 3211: Expected 5 columns, got 4: 1,2,a,no"),
                                       HasSubstr("data.delimiter")));
    EXPECT_THAT(bad("1,2,\xff,1,no"), AllOf(HasSubstr("t.csv: row 3211: column 'text'"), HasSubstr("UTF-8")));
    EXPECT_THAT(bad("1,2,a,1,no,\"x"), HasSubstr("t.csv: row 3211: "));
  }
  DatasetOptions options = options_of({});
  options.opening = {.threads = 4, .table_part_bytes = 3000};
  const auto with = [&](size_t column, const std::string& value) {
    Table changed = table;
    changed[3210][column] = value;
    changed[4000][column] = value;
    options.path = folder.write("u.csv", csv_of(changed));
    try {
      open_dataset(options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(with(0, "1O"), HasSubstr("u.csv: column 'x', row 3211: '1O' is no number"));
  EXPECT_THAT(with(4, "?"), HasSubstr("u.csv: column 'y', row 3211: the target is missing"));
  options.table_test = "v.csv";
  options.test_fraction = 0;
  Table test = table;
  test[2222][2] = "new";
  folder.write("v.csv", csv_of(test));
  for (const bool kept : {false, true}) {
    options.opening.spool = kept ? (folder / "kept").string() : "";
    EXPECT_THAT(with(4, "yes"),
                HasSubstr("v.csv: column 'text', row 2223: category 'new' was not in the training"));
  }
}

// Reads until so many parts are done, then is interrupted.
void read_some(DatasetOptions options, int parts) {
  CancelToken cancel;
  options.opening.cancel = &cancel;
  int calls = 0;
  options.opening.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_LE(done, total);
    if (++calls == parts) cancel.cancel();
  };
  try {
    open_dataset(options);
    FAIL() << "not interrupted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
  }
}

std::filesystem::path rows_file(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == kRowsSuffix) return entry.path();
  }
  return {};
}

TEST(TableReading, AnInterruptedReadingGoesOn) {
  const TempFolder folder;
  const Table table = made_up(3000);
  DatasetOptions options = options_of(folder.write("t.csv", csv_of(table)));
  const auto want = splits_of(open_dataset(options));
  options.opening = {.threads = 1, .table_part_bytes = 2000, .spool = folder / "kept"};
  read_some(options, 20);
  options.opening.threads = 3;
  const auto file = rows_file(folder / "kept");
  const std::string begun = furrow::read_file(file.string());
  EXPECT_GT(begun.size(), 1000u);
  // What was read is not parsed again: bytes that changed behind its back, unseen by the stamps, stay unseen.
  const auto stamp = std::filesystem::last_write_time(options.path);
  std::string text = furrow::read_file(options.path.string());
  const std::string header = text.substr(0, text.find('\n') + 1);
  text[header.size()] = text[header.size()] == '9' ? '8' : '9';  // of the first row
  folder.write("t.csv", text);
  std::filesystem::last_write_time(options.path, stamp);
  const Dataset again = open_dataset(options);
  EXPECT_EQ(splits_of(again), want);
  EXPECT_TRUE(furrow::read_file(file.string()).starts_with(begun));
  // Other rules, and a file that is damaged, begin anew.
  options.table_rules.missing.push_back("none");
  EXPECT_NE(splits_of(open_dataset(options)), want) << "control";
  options.table_rules.missing.pop_back();
  text[header.size()] = table[0][0][0];
  folder.write("t.csv", text);
  std::filesystem::last_write_time(options.path, stamp);
  for (size_t at = 0; at < begun.size(); at += begun.size() / 40) {
    std::string damaged = begun;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    std::ofstream(file, std::ios::binary) << damaged;
    EXPECT_EQ(splits_of(open_dataset(options)), want) << at;
    std::ofstream(file, std::ios::binary) << begun.substr(0, at);
    EXPECT_EQ(splits_of(open_dataset(options)), want) << at;
  }
}

PackSummary pack(DatasetOptions options, const PackRequest& request,
                 const std::function<void(uint64_t, uint64_t)>& reading = {}) {
  options.opening = {
      .threads = request.threads, .table_part_bytes = 3000, .progress = reading, .cancel = request.cancel};
  return testing::pack_set(std::move(options), request);
}

// Rows are kept beside the pack until it is whole, and go with the error that ends it.
TEST(TableReading, APackOfATableIsItsSet) {
  const TempFolder folder;
  const Table table = made_up(3000);
  DatasetOptions options = options_of(folder.write("t.csv", csv_of(table)));
  const Dataset plain = open_dataset(options);
  PackRequest request{
      .folder = (folder / "pack").string(), .kind = "table", .fingerprint = "f", .threads = 3};
  request.shard_bytes = 20'000;
  CancelToken cancel;
  request.cancel = &cancel;
  int calls = 0;
  const auto stop_at = [&](int stop) {
    return [&calls, &cancel, stop](uint64_t, uint64_t) {
      if (++calls == stop) cancel.cancel();
    };
  };
  EXPECT_THROW(pack(options, request, stop_at(30)), Error);
  EXPECT_FALSE(rows_file(folder / "pack.partial").empty());
  cancel.cancel(0);
  calls = 0;
  request.progress = stop_at(4);
  EXPECT_THROW(pack(options, request), Error);
  EXPECT_FALSE(rows_file(folder / "pack.partial").empty());
  cancel.cancel(0);
  request.progress = {};
  EXPECT_GT(pack(options, request).kept, 0);
  EXPECT_FALSE(path_exists(request.folder + ".partial"));
  EXPECT_TRUE(rows_file(folder / "pack").empty());
  DatasetOptions packed = options;
  packed.kind = "pack";
  packed.path = folder / "pack";
  const Dataset dataset = open_dataset(packed);
  EXPECT_EQ(splits_of(dataset), splits_of(plain));
  EXPECT_EQ(dataset.preprocessing, plain.preprocessing);
  options.path = folder.write("bad.csv", csv_of(table) + "1,2\n");
  request.folder = (folder / "other").string();
  EXPECT_THROW(pack(options, request), Error);
  EXPECT_FALSE(path_exists(request.folder + ".partial"));
}

// The same file may be both: its rows are kept twice.
TEST(TableReading, OneFileInTwoRoles) {
  const TempFolder folder;
  folder.write("t.csv", csv_of(made_up(500)));
  DatasetOptions options = options_of(folder.path());
  options.table_train = options.table_test = "t.csv";
  options.test_fraction = 0;
  const auto want = splits_of(open_dataset(options));
  options.opening = {.threads = 2, .table_part_bytes = 1000, .spool = folder / "kept"};
  EXPECT_EQ(splits_of(open_dataset(options)), want);
  EXPECT_EQ(splits_of(open_dataset(options)), want);
}

// What a block cannot know: a column of numbers here is one of categories as a whole.
TEST(TableReading, AColumnIsWhatAllItsRowsAre) {
  const TempFolder folder;
  std::string text = "a,y\n";
  for (int i = 0; i < 300; ++i) text += i < 200 ? fmt::format("0{},p\n", i % 9) : "word,p\n";
  DatasetOptions options{.kind = "table", .path = folder.write("t.csv", text)};
  options.table_rules.target = "y";
  for (const size_t part_bytes : {10, 1 << 20}) {
    options.opening.table_part_bytes = part_bytes;
    const auto encoder = preprocess::load_as<preprocess::TableEncoder>(open_dataset(options).preprocessing);
    EXPECT_THAT(encoder->features()[0].values,
                ::testing::ElementsAre("00", "01", "02", "03", "04", "05", "06", "07", "08", "word"));
  }
  text = "a,y\n";
  for (int i = 0; i < 3000; ++i) text += fmt::format("{}{},p\n", i % 2 == 0 ? "" : "n", i);
  options.path = folder.write("u.csv", text);
  const auto message = [&] {
    try {
      open_dataset(options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  for (const size_t part_bytes : {10, 1 << 20}) {
    options.opening.table_part_bytes = part_bytes;
    EXPECT_THAT(message(), HasSubstr("u.csv: column 'a' has 3000 different texts"));
  }
  // Numbers alone in the first part, whose texts are not kept.
  text = "a,y\n";
  for (int i = 0; i < 3000; ++i) text += fmt::format("{}{},p\n", i < 1500 ? "" : "n", i);
  options.path = folder.write("v.csv", text);
  options.opening = {.threads = 1, .table_part_bytes = 9000};
  EXPECT_THAT(message(), HasSubstr("v.csv: column 'a' has over 1,"));
}

}  // namespace
}  // namespace furrow::data
