#include "furrow/storage/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/storage/json.h"
#include "furrow/storage/test_folder.h"

namespace furrow::storage {
namespace {

using ::testing::HasSubstr;

Array floats(Shape shape, float first) {
  Array array(DType::kF32, std::move(shape));
  std::iota(array.as<float>().begin(), array.as<float>().end(), first);
  return array;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return file + header + std::string(data_bytes, '\1');
}

SafetensorsHeader parse_text(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)));
}

std::string refusal(const std::string& file, ErrorCode code = ErrorCode::kDataLoss) {
  try {
    parse_text(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << file.substr(8);
  return "";
}

// A header with one tensor; `entry` replaces its description.
std::string one(const std::string& entry, size_t data_bytes) {
  return file_of("{\"a\":" + entry + "}", data_bytes);
}

TEST(Safetensors, RoundTripsEveryDtype) {
  const TestFolder folder;
  std::vector<Array> arrays;
  std::vector<NamedArray> named;
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    arrays.emplace_back(static_cast<DType>(i), Shape{3, i + 1});
    std::memset(arrays.back().bytes().data(), i + 1, arrays.back().bytes().size());
    named.push_back({"t" + std::to_string(i), arrays.back().view()});
  }
  arrays.push_back(floats({}, 7));
  named.push_back({"scalar \"ü\"", arrays.back().view()});
  write_safetensors(folder / "x.safetensors", named, {{"who", "me"}});
  const SafetensorsFile file(folder / "x.safetensors");
  EXPECT_EQ(file.tensors().size(), named.size());
  EXPECT_EQ(file.metadata().at("who"), "me");
  for (const NamedArray& expected : named) {
    Array read(expected.view.dtype, expected.view.shape);
    file.read(expected.name, read.view());
    EXPECT_EQ(std::memcmp(read.bytes().data(), expected.view.bytes.data(), read.bytes().size()), 0)
        << expected.name;
    EXPECT_EQ(file.bytes(file.at(expected.name)).size(), read.bytes().size());
  }
}

TEST(Safetensors, BytesDoNotDependOnTheOrderOfTheCall) {
  const TestFolder folder;
  const Array a = floats({2, 2}, 0), b = floats({3}, 9);
  const Array c(DType::kU8, {5});
  std::memset(c.bytes().data(), 3, 5);
  write_safetensors(folder / "1", std::vector<NamedArray>{{"a", a.view()}, {"b", b.view()}, {"c", c.view()}});
  write_safetensors(folder / "2", std::vector<NamedArray>{{"c", c.view()}, {"b", b.view()}, {"a", a.view()}});
  EXPECT_EQ(read_file(folder / "1"), read_file(folder / "2"));
  const SafetensorsHeader header = parse_text(read_file(folder / "1"));
  EXPECT_EQ(header.data_begin % 64, 0u);
  EXPECT_EQ(header.tensors.back().name, "c");
  b.as<float>()[0] += 1;
  write_safetensors(folder / "2", std::vector<NamedArray>{{"a", a.view()}, {"b", b.view()}, {"c", c.view()}});
  EXPECT_NE(read_file(folder / "1"), read_file(folder / "2"));
}

// Tensors that are not in memory at once: announced, then written one by one.
TEST(Safetensors, AWriterTakesTensorsInAnyOrder) {
  const TestFolder folder;
  const Array a = floats({2, 2}, 0), b = floats({3}, 9), none(DType::kF32, {0, 4});
  write_safetensors(folder / "1",
                    std::vector<NamedArray>{{"a", a.view()}, {"b", b.view()}, {"none", none.view()}});
  const std::vector<TensorInfo> tensors = {
      {"b", DType::kF32, {3}}, {"none", DType::kF32, {0, 4}}, {"a", DType::kF32, {2, 2}}};
  {
    SafetensorsWriter writer(folder / "2", tensors);
    writer.write("b", b.view());
    writer.write("none", none.view());
    EXPECT_THROW(writer.write("b", b.view()), Error);
    EXPECT_THROW(writer.write("c", b.view()), Error);
    EXPECT_THROW(writer.write("a", b.view()), Error);
    EXPECT_THROW(writer.commit(), Error);
    writer.write("a", a.view());
    EXPECT_FALSE(path_exists(folder / "2"));
    writer.commit();
  }
  EXPECT_EQ(read_file(folder / "1"), read_file(folder / "2"));
}

TEST(Safetensors, AnEmptyFileOfTensorsIsOne) {
  const TestFolder folder;
  write_safetensors(folder / "e", {});
  EXPECT_TRUE(SafetensorsFile(folder / "e").tensors().empty());
}

TEST(Safetensors, WrongNamesAreRefusedBeforeAnythingIsWritten) {
  const TestFolder folder;
  const Array a = floats({1}, 0);
  for (const char* name : {"twice", "__metadata__", "\xff"}) {
    EXPECT_THROW(
        write_safetensors(folder / "x", std::vector<NamedArray>{{"twice", a.view()}, {name, a.view()}}),
        Error);
  }
  EXPECT_FALSE(path_exists(folder / "x"));
}

TEST(Safetensors, AFullDiskLeavesTheOldFile) {
  const TestFolder folder;
  const Array a = floats({4}, 0), b = floats({4}, 1);
  write_safetensors(folder / "x", std::vector<NamedArray>{{"a", a.view()}});
  const std::string before = read_file(folder / "x");
  for (const char* point : {"file.write=enospc@1", "file.write=enospc@2", "file.before_rename=error"}) {
    arm_failpoints(point);
    EXPECT_THROW(write_safetensors(folder / "x", std::vector<NamedArray>{{"a", b.view()}}), Error) << point;
    arm_failpoints("");
    EXPECT_EQ(read_file(folder / "x"), before);
  }
}

TEST(SafetensorsHeader, AcceptsWhatTheFormatAllows) {
  // Spaces after the header, a tensor that is not aligned, one without elements.
  const std::string header =
      R"({"__metadata__":{"k":"v"},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
      R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"z":{"dtype":"F64","shape":[0,9],"data_offsets":[5,5]}}   )";
  const SafetensorsHeader parsed = parse_text(file_of(header, 5));
  ASSERT_EQ(parsed.tensors.size(), 3u);
  EXPECT_EQ(parsed.tensors[0].name, "a");
  EXPECT_EQ(parsed.tensors[1].begin, 1u);
  EXPECT_EQ(parsed.metadata.at("k"), "v");
}

TEST(SafetensorsHeader, RefusesWrongLengths) {
  EXPECT_THAT(refusal("1234567"), HasSubstr("7 bytes are too few"));
  EXPECT_THAT(refusal(file_of("{}", 0).substr(0, 9)),
              HasSubstr("header says it is 2 bytes long, but the file has room for 1"));
  EXPECT_THAT(refusal(std::string(8, '\xff') + "{}"), HasSubstr("bytes long"));
  EXPECT_THAT(refusal(std::string(8, '\0')), HasSubstr("does not start with {"));
  EXPECT_THAT(refusal(file_of(" {}", 0)), HasSubstr("does not start with {"));
}

TEST(SafetensorsHeader, RefusesWrongJson) {
  EXPECT_THAT(refusal(file_of("{\"a\":}", 0)), HasSubstr("not JSON, at byte"));
  EXPECT_THAT(refusal(file_of("{} {}", 0)), HasSubstr("not JSON"));
  EXPECT_THAT(refusal(file_of(std::string("{}") + '\0', 0)), HasSubstr("not JSON"));
  EXPECT_THAT(refusal(file_of("{\"a\":1}", 0)), HasSubstr("tensor 'a': expected an object"));
  EXPECT_THAT(refusal(one(R"({"dtype":"U8","shape":[1]})", 1)), HasSubstr("expected the key 'data_offsets'"));
  EXPECT_THAT(refusal(one(R"({"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]})", 1)),
              HasSubstr("twice"));
  EXPECT_THAT(refusal(one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0})", 1)),
              HasSubstr("nothing else"));
  EXPECT_THAT(refusal(one(R"({"dtype":"U8","shape":[1.5],"data_offsets":[0,1]})", 1)),
              HasSubstr("expected an integer"));
  EXPECT_THAT(refusal(one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})", 1)),
              HasSubstr("two numbers"));
  EXPECT_THAT(refusal(one(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", 1)),
              HasSubstr("not negative"));
  EXPECT_THAT(refusal(file_of("{\"__metadata__\":{\"a\":1}}", 0)), HasSubstr("expected a string"));
  EXPECT_THAT(
      refusal(one(R"({"dtype":"F8","shape":[1],"data_offsets":[0,1]})", 1), ErrorCode::kUnimplemented),
      HasSubstr("dtype 'F8'"));
  EXPECT_THAT(refusal(file_of(std::string(100, '['), 0).replace(8, 1, "{")), HasSubstr("not JSON"));
  EXPECT_THAT(refusal(file_of("{\"a\":" + std::string(80, '[') + std::string(80, ']') + "}", 0)),
              HasSubstr("too deep"));
}

TEST(SafetensorsHeader, RefusesShapesThatDoNotFit) {
  const auto tensor = [](const std::string& shape, const std::string& offsets) {
    return one(R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}", 8);
  };
  EXPECT_NO_THROW(parse_text(tensor("[2]", "[0,8]")));
  EXPECT_THAT(refusal(tensor("[3]", "[0,8]")),
              HasSubstr("shape [3] of float32 needs 12 bytes, data_offsets are 0 and 8"));
  EXPECT_THAT(refusal(tensor("[-2]", "[0,8]")), HasSubstr("negative dim"));
  EXPECT_THAT(refusal(tensor("[4611686018427387904,4]", "[0,8]")), HasSubstr("larger than any file"));
  EXPECT_THAT(refusal(tensor("[2]", "[8,0]")), HasSubstr("data_offsets are 8 and 0"));
  EXPECT_THAT(refusal(tensor("[2]", "[18446744073709551608,0]")), HasSubstr("data_offsets"));
  EXPECT_THAT(refusal(tensor("[1]", "[4,8]")), HasSubstr("4 bytes before tensor 'a' belong to none"));
  EXPECT_THAT(refusal(tensor("[1]", "[0,4]")), HasSubstr("4 bytes at the end belong to no tensor"));
  EXPECT_THAT(refusal(tensor("[3]", "[0,12]")),
              HasSubstr("cut short: tensors need 12 bytes of data, it has 8"));
  EXPECT_THAT(refusal(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
                              7)),
              HasSubstr("tensor 'b' overlaps the one before it"));
}

TEST(SafetensorsFile, ErrorsNameTheFileAndTheNearest) {
  const TestFolder folder;
  const Array a = floats({2}, 0);
  write_safetensors(folder / "x", std::vector<NamedArray>{{"fc1.weight", a.view()}});
  const SafetensorsFile file(folder / "x");
  const auto message = [](const std::function<void()>& act, ErrorCode code) -> std::string {
    try {
      act();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message([&] { file.at("fc1.wieght"); }, ErrorCode::kNotFound),
              HasSubstr("did you mean 'fc1.weight'?"));
  EXPECT_THAT(message([&] { file.read("fc1.weight", Array(DType::kF32, {3}).view()); },
                      ErrorCode::kFailedPrecondition),
              HasSubstr("is float32 [2], wanted is float32 [3]"));
  const std::string bytes = read_file(folder / "x");
  write_file_atomic(folder / "x", bytes.substr(0, bytes.size() - 1));
  EXPECT_THAT(message([&] { SafetensorsFile cut(folder / "x"); }, ErrorCode::kDataLoss),
              HasSubstr(folder / "x"));
}

// No single flipped bit of the header goes unnoticed as another valid description of the same data, or
// crashes.
TEST(SafetensorsFile, EveryFlippedHeaderBitIsRefusedOrChangesOnlyNames) {
  const TestFolder folder;
  const Array a = floats({2, 3}, 0), b = floats({4}, 0);
  write_safetensors(folder / "x", std::vector<NamedArray>{{"a", a.view()}, {"b", b.view()}});
  const std::string good = read_file(folder / "x");
  const size_t header = parse_text(good).data_begin;
  for (size_t bit = 0; bit < header * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    try {
      EXPECT_EQ(parse_text(bad).tensors.size(), 2u) << bit;
    } catch (const Error& error) {
      EXPECT_NE(error.code(), ErrorCode::kInternal) << bit << " " << error.what();
    }
  }
}

TEST(Json, ReadsValuesAndRefusesWrongOnes) {
  const Json root = parse_json(R"({"a":[1,-2],"s":"x","u":18446744073709551615,"n":null,"t":true,"d":1.5})");
  EXPECT_EQ(root.at("a").integers(), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(root.at("u").unsigned_integer(), UINT64_MAX);
  EXPECT_EQ(root.find("none"), nullptr);
  EXPECT_THROW(root.at("u").integer(), Error);
  EXPECT_THROW(root.at("a").list()[1].unsigned_integer(), Error);
  EXPECT_THROW(root.at("s").list(), Error);
  EXPECT_THROW(root.at("n").string(), Error);
  EXPECT_THROW(root.at("d").integer(), Error);
  EXPECT_THROW(parse_json("\"\xff\""), Error);
  EXPECT_THROW(parse_json(""), Error);
}

}  // namespace
}  // namespace furrow::storage
