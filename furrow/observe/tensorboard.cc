#include "furrow/observe/tensorboard.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <filesystem>

#include "furrow/base/crc32c.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"

namespace furrow::observe {
namespace {

static_assert(std::endian::native == std::endian::little, "event files are little endian");

constexpr std::string_view kPrefix = "events.out.tfevents.";

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// Protocol buffer encoding ("Encoding", protobuf.dev): a field is its number and wire type, then its content.
class Message {
 public:
  Message& integer(int field, uint64_t value) {
    varint(static_cast<uint64_t>(field) << 3);
    varint(value);
    return *this;
  }
  Message& real64(int field, double value) {
    varint(static_cast<uint64_t>(field) << 3 | 1);
    bytes_ += bytes_of(value);
    return *this;
  }
  Message& real32(int field, float value) {
    varint(static_cast<uint64_t>(field) << 3 | 5);
    bytes_ += bytes_of(value);
    return *this;
  }
  Message& text(int field, std::string_view value) {
    varint(static_cast<uint64_t>(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

// Event: wall_time 1, step 2, file_version 3, summary 5, session_log 7.
Message event(double wall_time, int64_t step) {
  Message message;
  message.real64(1, wall_time).integer(2, static_cast<uint64_t>(step));
  return message;
}

// Summary: repeated Value 1 { tag 1, simple_value 2 }.
std::string summary_of(const StepRecord& record) {
  Message summary;
  for (const auto& [name, value] : record.values) {
    Message scalar;
    scalar.text(1, name).real32(2, static_cast<float>(value));
    summary.text(1, scalar.bytes());
  }
  return summary.bytes();
}

// Readers take files in the order of their names, so a new one is dated after every older one.
int64_t next_time(const std::string& folder, int64_t now_s) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    int64_t time = 0;
    if (!name.starts_with(kPrefix)) continue;
    const std::string rest = name.substr(kPrefix.size());
    if (parse_int(rest.substr(0, rest.find('.')), time)) now_s = std::max(now_s, time + 1);
  }
  return now_s;
}

}  // namespace

std::string frame_record(std::string_view data) {
  const std::string length = bytes_of(static_cast<uint64_t>(data.size()));
  std::string out = length + bytes_of(masked_crc(crc32c(length)));
  out += data;
  return out + bytes_of(masked_crc(crc32c(data)));
}

TensorBoardSink::TensorBoardSink(std::string folder, const Clock& clock)
    : folder_(std::move(folder)), clock_(clock) {}

double TensorBoardSink::wall_time() const { return static_cast<double>(clock_.unix_ns()) / 1e9; }

void TensorBoardSink::begin(const std::string& /*run_name*/, const std::string& /*config_toml*/,
                            int64_t resumed_step) {
  make_directories(folder_);
  const int64_t time = next_time(folder_, clock_.unix_ns() / 1'000'000'000);
  file_ = std::make_unique<AppendFile>(
      fmt::format("{}/{}{}.{}.{}.0", folder_, kPrefix, time, host_name(), process_id()));
  file_->append(frame_record(event(wall_time(), 0).text(3, "brain.Event:2").bytes()));
  Message start;
  start.integer(1, 1);  // SessionLog: status 1 = START
  file_->append(frame_record(event(wall_time(), resumed_step + 1).text(7, start.bytes()).bytes()));
}

void TensorBoardSink::log(const StepRecord& record) {
  file_->append(frame_record(event(wall_time(), record.step).text(5, summary_of(record)).bytes()));
}

void TensorBoardSink::end(const std::string& /*status*/) { file_->sync(); }

}  // namespace furrow::observe
