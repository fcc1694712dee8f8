#include "furrow/train/rank_texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <span>

#include "furrow/base/error.h"

namespace furrow::train {
namespace {

// One byte, 0 or 1 + the error's code, then the text.
struct Report {
  std::string bytes;
  std::exception_ptr failure;
};

Report report_of(const std::function<std::string()>& make) {
  Report report;
  try {
    report.bytes = '\0' + make();
  } catch (const Error& error) {
    report = {static_cast<char>(1 + static_cast<int>(error.code())) + std::string(error.what()),
              std::current_exception()};
  } catch (const std::exception& error) {
    report = {static_cast<char>(1 + static_cast<int>(ErrorCode::kInternal)) + std::string(error.what()),
              std::current_exception()};
  }
  return report;
}

std::span<uint8_t> bytes_of(std::string& text) {
  return {reinterpret_cast<uint8_t*>(text.data()), text.size()};
}

std::string read_report(const std::string& bytes, const comm::Group& group, int from) {
  if (bytes.front() == '\0') return bytes.substr(1);
  throw Error(static_cast<ErrorCode>(bytes.front() - 1),
              fmt::format("rank {}: {}", group.members()[static_cast<size_t>(from)], bytes.substr(1)));
}

}  // namespace

std::string text_of_first(comm::Group group, const std::string& label,
                          const std::function<std::string()>& make) {
  Report report;
  if (group.rank() == 0) report = report_of(make);
  int64_t size = static_cast<int64_t>(report.bytes.size());
  group.broadcast(std::span(&size, 1), 0, label);
  report.bytes.resize(static_cast<size_t>(size));
  group.broadcast(bytes_of(report.bytes), 0, label);
  if (report.failure) std::rethrow_exception(report.failure);
  return read_report(report.bytes, group, 0);
}

std::vector<std::string> texts_of_all(comm::Group group, const std::string& label,
                                      const std::function<std::string()>& make) {
  Report report = report_of(make);
  const auto own = static_cast<int64_t>(report.bytes.size());
  std::vector<int64_t> sizes(static_cast<size_t>(group.size()));
  group.all_gather<int64_t>(std::span(&own, 1), std::span(sizes), {}, label);
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  std::string all(static_cast<size_t>(total), '\0');
  group.all_gather<uint8_t>(bytes_of(report.bytes), bytes_of(all), sizes, label);
  std::vector<std::string> texts;
  size_t at = 0;
  for (size_t r = 0; r < sizes.size(); ++r) {
    const std::string bytes = all.substr(at, static_cast<size_t>(sizes[r]));
    const bool own_failure = static_cast<int>(r) == group.rank() && report.failure;
    if (own_failure) std::rethrow_exception(report.failure);
    texts.push_back(read_report(bytes, group, static_cast<int>(r)));
    at += static_cast<size_t>(sizes[r]);
  }
  return texts;
}

void wait_in_turns(comm::Group group, const std::string& label, const std::function<bool()>& done) {
  bool all = false;
  while (!all) {
    const auto says = [&]() -> std::string { return done() ? "done" : ""; };
    all = std::ranges::none_of(texts_of_all(group, label, says), &std::string::empty);
  }
}

std::vector<std::string> texts_to_first(comm::Group group, const std::string& label,
                                        const std::function<std::string()>& make) {
  Report report = report_of(make);
  const std::array<int64_t, 2> own = {static_cast<int64_t>(report.bytes.size()), report.failure ? 1 : 0};
  std::vector<int64_t> all(static_cast<size_t>(group.size()) * own.size());
  group.all_gather<int64_t>(own, std::span(all), {}, label);
  for (int r = 0; r < group.size(); ++r) {
    if (all[2 * static_cast<size_t>(r) + 1] == 0) continue;
    report.bytes.resize(static_cast<size_t>(all[2 * static_cast<size_t>(r)]));
    group.broadcast(bytes_of(report.bytes), r, label);
    if (r == group.rank()) std::rethrow_exception(report.failure);
    read_report(report.bytes, group, r);  // throws
  }
  if (group.rank() != 0) {
    group.send<uint8_t>(bytes_of(report.bytes), 0, label);
    return {};
  }
  std::vector<std::string> texts = {report.bytes.substr(1)};
  for (int r = 1; r < group.size(); ++r) {
    std::string bytes(static_cast<size_t>(all[2 * static_cast<size_t>(r)]), '\0');
    group.recv(bytes_of(bytes), r, label);
    texts.push_back(bytes.substr(1));
  }
  return texts;
}

}  // namespace furrow::train
