// The tuning file: docs/formats/comm-tuning.md.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/comm/algorithm.h"

namespace furrow::comm {
namespace {

constexpr std::string_view kFirstLine = "furrow-comm-tuning 3";
constexpr std::string_view kFirstLineOfVersion2 = "furrow-comm-tuning 2";
constexpr std::string_view kFirstLineOfVersion1 = "furrow-comm-tuning 1";
constexpr std::string_view kUnknown = "-";

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

// "link wires hosts connections Mbit/s interface"
bool parse_link_line(const std::vector<std::string>& words, size_t line, AlgorithmTable* table) {
  if (words.empty() || words[0] != "link") return false;
  if (words.size() != 6) refuse(line, "expected `link wires hosts connections Mbit/s interface`");
  const auto small = [&](const std::string& word) {
    return static_cast<int>(std::min<int64_t>(parse_number(word, line), INT32_MAX));
  };
  AlgorithmTable::Link link;
  link.hosts = small(words[2]);
  link.connections = small(words[3]);
  if (words[4] != kUnknown) link.rate_mbit = parse_number(words[4], line);
  if (words[5] != kUnknown) link.interface = words[5];
  table->set_link(parse_wires(words[1], line), link);
  return true;
}

std::string link_line(Wires wires, const AlgorithmTable::Link& link) {
  return fmt::format("link {} {} {} {} {}\n", to_string(wires), link.hosts, link.connections,
                     link.rate_mbit > 0 ? std::to_string(link.rate_mbit) : kUnknown,
                     link.interface.empty() ? kUnknown : link.interface);
}

// "eth0 (10000 Mbit/s), 2 connections"
std::string described(const AlgorithmTable::Link& link) {
  return fmt::format("{}{}, {} connections", link.interface.empty() ? "an unknown interface" : link.interface,
                     link.rate_mbit > 0 ? fmt::format(" ({} Mbit/s)", link.rate_mbit) : "", link.connections);
}

// Inside a host interfaces do not matter.
bool alike(Wires wires, const AlgorithmTable::Link& a, const AlgorithmTable::Link& b) {
  if (a.connections != b.connections) return false;
  return wires == Wires::kLoopback || (a.interface == b.interface && a.rate_mbit == b.rate_mbit);
}

std::string number(int64_t value, int64_t all) { return value == all ? "*" : std::to_string(value); }

}  // namespace

AlgorithmTable AlgorithmTable::parse(std::string_view text) {
  AlgorithmTable table;
  const std::vector<std::string> lines = split(text, '\n');
  const std::string_view first = trim(lines[0]);
  const bool version1 = first == kFirstLineOfVersion1, version2 = first == kFirstLineOfVersion2;
  if (!version1 && !version2 && first != kFirstLine) refuse(1, fmt::format("expected '{}'", kFirstLine));
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::string_view line = trim(lines[i]);
    if (line.empty() || line.front() == '#') continue;
    if (!version1 && parse_machine(line, &table.machine_)) continue;
    std::vector<std::string> words = split(line, ' ');
    std::erase(words, "");
    if (!version1 && !version2 && parse_link_line(words, i + 1, &table)) continue;
    table.entries_.push_back(parse_entry(words, i + 1));
  }
  // Version 1 had these lines under `mixed`, which are of hosts.
  if (version1) table.take_built_in(Wires::kLoopback);
  table.sort();
  return table;
}

void AlgorithmTable::take_built_in(Wires wires) {
  std::erase_if(entries_, [&](const Entry& e) { return e.wires == wires; });
  std::ranges::copy_if(built_in().entries_, std::back_inserter(entries_),
                       [&](const Entry& e) { return e.wires == wires; });
  links_.erase(wires);
  sort();
}

std::vector<std::string> AlgorithmTable::leave_out_other_links(const Link& now) {
  std::vector<std::string> left_out;
  for (const Wires wires : {Wires::kMixed, Wires::kMessages, Wires::kLoopback}) {
    const auto found = links_.find(wires);
    const bool measured = found != links_.end();
    if (!measured || (wires != Wires::kLoopback && now.hosts == 1)) continue;
    if (!now.emulated && alike(wires, found->second, now)) continue;
    left_out.push_back(fmt::format("what it says of {} wires was measured over {}, and messages now take {}",
                                   to_string(wires), described(found->second),
                                   now.emulated ? "the link that comm.throttle emulates" : described(now)));
    take_built_in(wires);
  }
  return left_out;
}

std::string AlgorithmTable::to_text() const {
  std::string text(kFirstLine);
  if (!machine_.processor.empty()) text += "\nprocessor " + machine_.processor;
  if (!machine_.host.empty()) text += "\nhost " + machine_.host;
  if (!links_.empty()) text += "\n# link wires hosts connections Mbit/s interface";
  text += "\n";
  for (const auto& [wires, link] : links_) text += link_line(wires, link);
  text += "# kind wires ranks-up-to bytes-up-to algorithm\n";
  for (const Entry& e : entries_) {
    text += fmt::format("{} {} {} {} {}\n", to_string(e.kind), to_string(e.wires), number(e.ranks, INT32_MAX),
                        number(e.bytes, INT64_MAX), algorithm_rows()[static_cast<size_t>(e.algorithm)].name);
  }
  return text;
}

}  // namespace furrow::comm
