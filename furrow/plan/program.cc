#include "furrow/plan/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

// How a kind is written: its name and which fields stand between the parentheses.
struct KindInfo {
  std::string_view name;
  bool unit;
  bool index;
  bool range;
  bool parts;  // may end in "/shard" or "/piece"
  // A last number, left out where it is 0; null: there is none.
  int32_t Value::* rest = nullptr;
};

constexpr std::array<KindInfo, kValueKinds> kKinds = {{
    {"batch", false, true, false, false},      {"act", true, true, false, false},
    {"saved", true, true, false, false},       {"grad", true, true, false, false},
    {"deferred", true, true, false, false},    {"gradient", true, true, true, true},
    {"total", true, false, false, true},       {"loss", false, true, false, false, &Value::begin},
    {"sums", false, true, false, false},       {"scale", false, false, false, false, &Value::index},
    {"params", true, true, false, true},       {"state", true, true, false, true},
    {"gathered", true, true, false, false},    {"snapshot", true, false, false, true},
    {"bn_stats", true, true, false, false},    {"stats", true, true, false, false},
    {"loss_scale", false, true, false, false}, {"hosted", true, true, false, true},
    {"leaf", true, true, true, false},         {"wide", true, false, false, true},
}};

const KindInfo& kind_info(ValueKind kind) {
  const auto index = static_cast<size_t>(kind);
  FURROW_CHECK(index < kKinds.size(), "value kind outside the table");
  return kKinds[index];
}

// Reads the fields of a value from left to right.
class ValueReader {
 public:
  explicit ValueReader(std::string_view text) : text_(text), rest_(text) {}

  Value read() {
    Value value;
    value.kind = read_kind();
    const KindInfo& info = kind_info(value.kind);
    expect("(");
    if (info.unit) value.unit = number();
    if (info.unit && info.index) expect(",");
    if (info.index) value.index = number();
    if (info.range) {
      expect(",[");
      value.begin = number();
      expect(",");
      value.end = number();
      expect(")");
    }
    if (info.rest != nullptr && !rest_.starts_with(")")) read_rest(info, &value);
    expect(")");
    if (info.parts) value.part = read_part();
    if (!rest_.empty()) fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is no value: it is written like act(0,1), loss(0), "
                            "scale(), gradient(3,0,[0,2)) or params(2,0)/shard",
                            text_));
  }

  ValueKind read_kind() {
    const std::string_view name = rest_.substr(0, rest_.find('('));
    for (size_t i = 0; i < kKinds.size(); ++i) {
      if (kKinds[i].name != name) continue;
      rest_.remove_prefix(name.size());
      return static_cast<ValueKind>(i);
    }
    fail();
  }

  // A 0 is not written, so that a value has one spelling.
  void read_rest(const KindInfo& info, Value* value) {
    if (info.index) expect(",");
    value->*info.rest = number();
    if (value->*info.rest == 0) fail();
  }

  Part read_part() {
    if (!rest_.starts_with('/')) return Part::kWhole;
    for (const Part part : {Part::kShard, Part::kPiece}) {
      const std::string_view name = kPartNames[static_cast<size_t>(part)];
      if (rest_.substr(1) != name) continue;
      rest_ = {};
      return part;
    }
    fail();
  }

  void expect(std::string_view token) {
    if (!rest_.starts_with(token)) fail();
    rest_.remove_prefix(token.size());
  }

  // Digits without sign or leading zeros, so that a value has one spelling.
  int32_t number() {
    int32_t value = 0;
    const char* begin = rest_.data();
    auto [end, error] = std::from_chars(begin, begin + rest_.size(), value);
    const auto length = static_cast<size_t>(end - begin);
    if (error != std::errc() || value < 0 || (length > 1 && *begin == '0') || *begin == '-') fail();
    rest_.remove_prefix(length);
    return value;
  }

  std::string_view text_;
  std::string_view rest_;
};

}  // namespace

std::string_view to_string(ValueKind kind) { return kind_info(kind).name; }

std::string to_string(const Value& value) {
  const KindInfo& info = kind_info(value.kind);
  std::string text = fmt::format("{}(", info.name);
  if (info.unit) text += fmt::format("{}", value.unit);
  if (info.unit && info.index) text += ',';
  if (info.index) text += fmt::format("{}", value.index);
  if (info.range) text += fmt::format(",[{},{})", value.begin, value.end);
  if (info.rest != nullptr && value.*info.rest != 0)
    text += fmt::format("{}{}", info.index ? "," : "", value.*info.rest);
  text += ')';
  if (info.parts && value.part != Part::kWhole)
    text += fmt::format("/{}", kPartNames[static_cast<size_t>(value.part)]);
  return text;
}

Value parse_value(std::string_view text) { return ValueReader(text).read(); }

std::string to_string(const Instruction& instruction) {
  const OpInfo& info = op_info(instruction.op);
  std::string text(info.name);
  if (info.has_unit) text += fmt::format(" u{}", instruction.unit);
  if (info.has_microbatch || instruction.microbatch >= 0) text += fmt::format(" m{}", instruction.microbatch);
  if (info.has_axis) text += fmt::format(" over {}", kGroupAxisNames[static_cast<size_t>(instruction.axis)]);
  if (info.has_peer)
    text += fmt::format(" {} {}", instruction.op == Op::kSend ? "to" : "from", instruction.peer);
  return text;
}

int64_t Program::samples() const {
  int64_t total = 0;
  for (int64_t size : microbatch_sizes) total += size;
  return total;
}

int32_t Program::slot_of(const Value& value) const { return home_of(value).slot; }

const SlotAssignment& Program::home_of(const Value& value) const {
  auto it = std::lower_bound(assignments.begin(), assignments.end(), value,
                             [](const SlotAssignment& a, const Value& v) { return a.value < v; });
  FURROW_CHECK(it != assignments.end() && it->value == value,
               fmt::format("program {}: {} has no slot", name, to_string(value)));
  return *it;
}

}  // namespace furrow::plan
