// The tuning file: docs/formats/comm-tuning.md.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/comm/algorithm.h"

namespace furrow::comm {
namespace {

constexpr std::string_view kFirstLine = "furrow-comm-tuning 2";
constexpr std::string_view kFirstLineOfVersion1 = "furrow-comm-tuning 1";

[[noreturn]] void refuse(size_t line, const std::string& why) {
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("tuning file, line {}: {}: write it anew with `furrow bench comm --tune`", line, why));
}

Wires parse_wires(std::string_view name, size_t line) {
  for (const Wires wires : {Wires::kMemory, Wires::kMixed, Wires::kMessages, Wires::kLoopback}) {
    if (to_string(wires) == name) return wires;
  }
  refuse(line, fmt::format("'{}' is not memory, mixed, messages or loopback", name));
}

int64_t parse_number(std::string_view text, size_t line) {
  int64_t value = 0;
  if (text == "*") return INT64_MAX;
  if (!parse_int(text, value) || value < 0) refuse(line, fmt::format("'{}' is no number", text));
  return value;
}

AlgorithmTable::Entry parse_entry(const std::vector<std::string>& words, size_t line) {
  if (words.size() != 5) refuse(line, "expected `kind wires ranks bytes algorithm`");
  AlgorithmTable::Entry e;
  try {
    e.kind = parse_collective_kind(words[0]);
    e.algorithm = algorithm_index(words[4]);
  } catch (const Error& error) {
    refuse(line, error.message());
  }
  e.wires = parse_wires(words[1], line);
  e.ranks = static_cast<int>(std::min<int64_t>(parse_number(words[2], line), INT32_MAX));
  e.bytes = parse_number(words[3], line);
  return e;
}

// "processor ..." or "host ...".
bool parse_machine(std::string_view line, AlgorithmTable::Machine* machine) {
  const size_t space = line.find(' ');
  const std::string_view key = line.substr(0, space);
  if (key != "processor" && key != "host") return false;
  const std::string_view value = space == std::string_view::npos ? "" : trim(line.substr(space));
  (key == "processor" ? machine->processor : machine->host) = value;
  return true;
}

std::string number(int64_t value, int64_t all) { return value == all ? "*" : std::to_string(value); }

}  // namespace

AlgorithmTable AlgorithmTable::parse(std::string_view text) {
  AlgorithmTable table;
  const std::vector<std::string> lines = split(text, '\n');
  const bool version1 = trim(lines[0]) == kFirstLineOfVersion1;
  if (!version1 && trim(lines[0]) != kFirstLine) refuse(1, fmt::format("expected '{}'", kFirstLine));
  if (version1) table.take_loopback(built_in());
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::string_view line = trim(lines[i]);
    if (line.empty() || line.front() == '#') continue;
    if (!version1 && parse_machine(line, &table.machine_)) continue;
    std::vector<std::string> words = split(line, ' ');
    std::erase(words, "");
    table.entries_.push_back(parse_entry(words, i + 1));
  }
  table.sort();
  return table;
}

// Version 1 had these lines under `mixed`, which are of hosts.
void AlgorithmTable::take_loopback(const AlgorithmTable& other) {
  std::ranges::copy_if(other.entries_, std::back_inserter(entries_),
                       [](const Entry& e) { return e.wires == Wires::kLoopback; });
}

std::string AlgorithmTable::to_text() const {
  std::string text(kFirstLine);
  if (!machine_.processor.empty()) text += "\nprocessor " + machine_.processor;
  if (!machine_.host.empty()) text += "\nhost " + machine_.host;
  text += "\n# kind wires ranks-up-to bytes-up-to algorithm\n";
  for (const Entry& e : entries_) {
    text += fmt::format("{} {} {} {} {}\n", to_string(e.kind), to_string(e.wires), number(e.ranks, INT32_MAX),
                        number(e.bytes, INT64_MAX), algorithm_rows()[static_cast<size_t>(e.algorithm)].name);
  }
  return text;
}

}  // namespace furrow::comm
