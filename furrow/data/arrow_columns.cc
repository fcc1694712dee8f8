#include "furrow/data/arrow_columns.h"

#include <arrow/api.h>
#include <arrow/util/decimal.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace furrow::data {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

using Append = void (*)(const arrow::Array&, TableColumn&);

// `of(array, row)` is the number of a row that has one.
template <class ArrayType, class Of>
void append_each(const arrow::Array& chunk, TableColumn& column, const Of& of) {
  const auto& array = static_cast<const ArrayType&>(chunk);
  column.numbers.resize(static_cast<size_t>(array.length()));
  double* const out = column.numbers.data();
  if (array.null_count() == 0) {
    for (int64_t i = 0; i < array.length(); ++i) out[i] = of(array, i);
  } else {
    for (int64_t i = 0; i < array.length(); ++i) out[i] = array.IsNull(i) ? kNone : of(array, i);
  }
}

template <class ArrayType>
void append_numbers(const arrow::Array& chunk, TableColumn& column) {
  append_each<ArrayType>(
      chunk, column, [](const ArrayType& array, int64_t i) { return static_cast<double>(array.Value(i)); });
}

// IEEE 754 binary16.
double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits >> 15 != 0 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : kNone;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

void append_halves(const arrow::Array& chunk, TableColumn& column) {
  append_each<arrow::HalfFloatArray>(
      chunk, column, [](const arrow::HalfFloatArray& array, int64_t i) { return half(array.Value(i)); });
}

// The nearest double of a decimal: both parts of the quotient are exact where they are small, its text says
// the rest.
template <class ArrayType, class Decimal>
void append_decimals(const arrow::Array& chunk, TableColumn& column) {
  constexpr int32_t kExactPowers = 22;
  constexpr int64_t kExactWhole = int64_t{1} << 53;
  const int32_t scale = static_cast<const arrow::DecimalType&>(*chunk.type()).scale();
  const double power = std::pow(10.0, scale);
  append_each<ArrayType>(chunk, column, [&](const ArrayType& array, int64_t i) {
    const Decimal value(array.GetValue(i));
    if constexpr (!std::is_same_v<Decimal, arrow::Decimal256>) {  // which has no such function
      const auto whole = value.template ToInteger<int64_t>();
      const bool exact = scale >= 0 && scale <= kExactPowers && whole.ok() && *whole >= -kExactWhole &&
                         *whole <= kExactWhole;
      if (exact) return static_cast<double>(*whole) / power;
    }
    const std::string text = value.ToString(scale);
    double number = kNone;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return number;
  });
}

double units_of_a_day(arrow::TimeUnit::type unit) {
  switch (unit) {
    case arrow::TimeUnit::SECOND:
      return 86400;
    case arrow::TimeUnit::MILLI:
      return 86400e3;
    case arrow::TimeUnit::MICRO:
      return 86400e6;
    case arrow::TimeUnit::NANO:
      return 86400e9;
  }
  return kNone;
}

template <class ArrayType, class Type>
void append_times(const arrow::Array& chunk, TableColumn& column) {
  const double day = units_of_a_day(static_cast<const Type&>(*chunk.type()).unit());
  append_each<ArrayType>(chunk, column, [day](const ArrayType& array, int64_t i) {
    return static_cast<double>(array.Value(i)) / day;
  });
}

void append_milliseconds(const arrow::Array& chunk, TableColumn& column) {
  append_each<arrow::Date64Array>(chunk, column, [](const arrow::Date64Array& array, int64_t i) {
    return static_cast<double>(array.Value(i)) / 86400e3;
  });
}

template <class ArrayType>
void append_strings(const arrow::Array& chunk, TableColumn& column) {
  const auto& array = static_cast<const ArrayType&>(chunk);
  column.ends.reserve(static_cast<size_t>(array.length()));
  for (int64_t i = 0; i < array.length(); ++i) append_text(column, array.IsNull(i) ? "" : array.GetView(i));
}

void append_nulls(const arrow::Array& chunk, TableColumn& column) {
  column.ends.resize(static_cast<size_t>(chunk.length()));
}

// A row of the table of types; a dictionary is of the type of its values.
struct ReadableType {
  arrow::Type::type type;
  Append append;
  enum Kind : uint8_t { kNumber, kDate, kText, kNull } kind;
};
constexpr ReadableType kReadable[] = {
    {arrow::Type::BOOL, &append_numbers<arrow::BooleanArray>, ReadableType::kNumber},
    {arrow::Type::INT8, &append_numbers<arrow::Int8Array>, ReadableType::kNumber},
    {arrow::Type::INT16, &append_numbers<arrow::Int16Array>, ReadableType::kNumber},
    {arrow::Type::INT32, &append_numbers<arrow::Int32Array>, ReadableType::kNumber},
    {arrow::Type::INT64, &append_numbers<arrow::Int64Array>, ReadableType::kNumber},
    {arrow::Type::UINT8, &append_numbers<arrow::UInt8Array>, ReadableType::kNumber},
    {arrow::Type::UINT16, &append_numbers<arrow::UInt16Array>, ReadableType::kNumber},
    {arrow::Type::UINT32, &append_numbers<arrow::UInt32Array>, ReadableType::kNumber},
    {arrow::Type::UINT64, &append_numbers<arrow::UInt64Array>, ReadableType::kNumber},
    {arrow::Type::HALF_FLOAT, &append_halves, ReadableType::kNumber},
    {arrow::Type::FLOAT, &append_numbers<arrow::FloatArray>, ReadableType::kNumber},
    {arrow::Type::DOUBLE, &append_numbers<arrow::DoubleArray>, ReadableType::kNumber},
    {arrow::Type::DECIMAL32, &append_decimals<arrow::Decimal32Array, arrow::Decimal32>,
     ReadableType::kNumber},
    {arrow::Type::DECIMAL64, &append_decimals<arrow::Decimal64Array, arrow::Decimal64>,
     ReadableType::kNumber},
    {arrow::Type::DECIMAL128, &append_decimals<arrow::Decimal128Array, arrow::Decimal128>,
     ReadableType::kNumber},
    {arrow::Type::DECIMAL256, &append_decimals<arrow::Decimal256Array, arrow::Decimal256>,
     ReadableType::kNumber},
    {arrow::Type::TIME32, &append_times<arrow::Time32Array, arrow::Time32Type>, ReadableType::kNumber},
    {arrow::Type::TIME64, &append_times<arrow::Time64Array, arrow::Time64Type>, ReadableType::kNumber},
    {arrow::Type::DATE32, &append_numbers<arrow::Date32Array>, ReadableType::kDate},
    {arrow::Type::DATE64, &append_milliseconds, ReadableType::kDate},
    {arrow::Type::TIMESTAMP, &append_times<arrow::TimestampArray, arrow::TimestampType>, ReadableType::kDate},
    {arrow::Type::STRING, &append_strings<arrow::StringArray>, ReadableType::kText},
    {arrow::Type::LARGE_STRING, &append_strings<arrow::LargeStringArray>, ReadableType::kText},
    {arrow::Type::STRING_VIEW, &append_strings<arrow::StringViewArray>, ReadableType::kText},
    {arrow::Type::BINARY, &append_strings<arrow::BinaryArray>, ReadableType::kText},
    {arrow::Type::LARGE_BINARY, &append_strings<arrow::LargeBinaryArray>, ReadableType::kText},
    {arrow::Type::BINARY_VIEW, &append_strings<arrow::BinaryViewArray>, ReadableType::kText},
    {arrow::Type::NA, &append_nulls, ReadableType::kNull},
};

const ReadableType* readable(arrow::Type::type type) {
  for (const ReadableType& row : kReadable) {
    if (row.type == type) return &row;
  }
  return nullptr;
}

const arrow::DataType& type_of_values(const arrow::DataType& type) {
  return type.id() == arrow::Type::DICTIONARY ? *static_cast<const arrow::DictionaryType&>(type).value_type()
                                              : type;
}

const char* remedy_of(arrow::Type::type type) {
  switch (type) {
    case arrow::Type::DURATION:
    case arrow::Type::INTERVAL_MONTHS:
    case arrow::Type::INTERVAL_DAY_TIME:
    case arrow::Type::INTERVAL_MONTH_DAY_NANO:
      return "write it as a number, such as of seconds";
    case arrow::Type::FIXED_SIZE_BINARY:
    case arrow::Type::EXTENSION:
      return "write it as text or numbers";
    default:
      return "write its parts as columns of their own";
  }
}

// Whether each row has a value; empty where all have.
std::vector<uint8_t> validity(const arrow::Array& array) {
  std::vector<uint8_t> valid;
  if (array.null_count() == 0) return valid;
  valid.resize(static_cast<size_t>(array.length()));
  for (int64_t i = 0; i < array.length(); ++i) valid[static_cast<size_t>(i)] = array.IsValid(i);
  return valid;
}

// The number that the dictionary gives to each row, kNoCode where the row has no value.
std::vector<uint32_t> codes_of(const arrow::DictionaryArray& array) {
  std::vector<uint32_t> codes(static_cast<size_t>(array.length()), TableColumn::kNoCode);
  const bool whole = array.null_count() == 0;
  const auto put = [&](const auto& code_of) {
    for (int64_t i = 0; i < array.length(); ++i) {
      if (whole || array.IsValid(i)) codes[static_cast<size_t>(i)] = static_cast<uint32_t>(code_of(i));
    }
  };
  if (array.indices()->type_id() == arrow::Type::INT32) {  // those of Parquet's own dictionaries
    put([raw = static_cast<const arrow::Int32Array&>(*array.indices()).raw_values()](int64_t i) {
      return raw[i];
    });
  } else {
    put([&array](int64_t i) { return array.GetValueIndex(i); });
  }
  return codes;
}

// Rows of the values that a dictionary numbers.
TableColumn column_of_dictionary(const std::string& name, const arrow::DictionaryArray& array) {
  TableColumn column = column_of(name, *array.dictionary());  // of the values
  std::vector<uint32_t> codes = codes_of(array);
  std::vector<uint8_t> valid = validity(array);
  for (size_t row = 0; !column.valid.empty() && row < codes.size(); ++row) {
    if (codes[row] == TableColumn::kNoCode || column.has(codes[row])) continue;
    valid.resize(codes.size(), 1);
    valid[row] = 0;
    codes[row] = TableColumn::kNoCode;
  }
  column.valid = std::move(valid);
  if (column.is_text) {
    column.is_coded = true;
    column.codes = std::move(codes);
    return column;
  }
  std::vector<double> numbers;
  numbers.reserve(codes.size());
  for (const uint32_t code : codes)
    numbers.push_back(code == TableColumn::kNoCode ? kNone : column.numbers[code]);
  column.numbers = std::move(numbers);
  return column;
}

}  // namespace

void fail(bool damaged, std::string message) { throw TableFault{damaged, {-1, std::move(message)}}; }

void append_text(TableColumn& column, std::string_view text) {
  column.text += text;
  if (column.text.size() > std::numeric_limits<uint32_t>::max())
    fail(false, "column '" + column.name + "' has over 4 GiB of text in one part");
  column.ends.push_back(static_cast<uint32_t>(column.text.size()));
}

void check_type(const std::string& name, const arrow::DataType& type) {
  const arrow::Type::type id = type_of_values(type).id();
  if (readable(id) != nullptr) return;
  fail(false, "column '" + name + "' has values of type " + type.ToString() +
                  ", but numbers, booleans, dates, times and text can be read: " + remedy_of(id) +
                  ", or list it in data.ignore_columns");
}

TableColumn column_of(const std::string& name, const arrow::Array& array) {
  if (array.type_id() == arrow::Type::DICTIONARY)
    return column_of_dictionary(name, static_cast<const arrow::DictionaryArray&>(array));
  const ReadableType* const type = readable(array.type_id());
  if (type == nullptr) fail(true, "column '" + name + "' has changed its type");
  TableColumn column;
  column.name = name;
  column.is_null = type->kind == ReadableType::kNull;
  column.is_text = column.is_null || type->kind == ReadableType::kText;
  column.is_date = type->kind == ReadableType::kDate;
  type->append(array, column);
  column.valid = validity(array);
  return column;
}

}  // namespace furrow::data
