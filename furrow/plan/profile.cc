// The profile file, line by line: docs/formats/profile.md.
#include "furrow/plan/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "furrow/base/error.h"
#include "furrow/base/text.h"

namespace furrow::plan {
namespace {

constexpr std::string_view kFirstLine = "furrow-profile 3";
constexpr std::array<std::string_view, 3> kWorkNames = {"forward", "backward_input", "backward_weight"};

std::string shape_word(const TensorSpec& tensor) {
  return fmt::format("{}{}", to_string(tensor.dtype), fmt::join(tensor.shape, "x"));
}

std::string attribute_word(const Attribute& attribute) {
  struct Visitor {
    std::string operator()(bool truth) const { return truth ? "true" : "false"; }
    std::string operator()(int64_t number) const { return std::to_string(number); }
    std::string operator()(double number) const { return format_double(number); }
    std::string operator()(const std::string& text) const {
      std::string word = text;
      std::ranges::replace_if(word, [](char c) { return c <= ' ' || c == '|'; }, '_');
      return word;
    }
  };
  return std::visit(Visitor{}, attribute);
}

class Parser {
 public:
  explicit Parser(std::string_view text) : lines_(split(text, '\n')) {}

  Profile parse() {
    constexpr std::array<std::string_view, 2> kBefore = {"furrow-profile 1", "furrow-profile 2"};
    const std::string_view first = trim(lines_[0]);
    if (first != kFirstLine && std::ranges::find(kBefore, first) == kBefore.end())
      refuse(fmt::format("expected '{}'", kFirstLine));
    for (at_ = 1; at_ < lines_.size(); ++at_) {
      const std::string_view line = trim(lines_[at_]);
      if (!line.empty() && line.front() != '#') parse_line(line);
    }
    return std::move(profile_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("profile, line {}: {}: write it anew with `furrow profile`", at_ + 1, why));
  }

  void parse_line(std::string_view line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string_view head = line.substr(0, space), rest = trim(line.substr(space));
    if (head == "machine") {
      profile_.machine = rest;
    } else if (head == "build") {
      profile_.build = rest;
    } else {
      words_ = split(line, ' ');
      std::erase(words_, "");
      parse_words();
    }
  }

  void parse_words() {
    const std::string& head = words_[0];
    if (head == "section") {
      expect(3);
      profile_.sections.push_back(
          {static_cast<int>(integer(1, 1 << 20)), static_cast<int>(integer(2, 1 << 16)), 0, {}, {}, {}});
      return;
    }
    if (profile_.sections.empty()) refuse("'section RANKS THREADS' comes before what is measured");
    ProfileSection& section = profile_.sections.back();
    if (head == "device") {
      if (words_.size() < 4) refuse("'device' has a type, bytes of memory and a name after it");
      section.device = {words_[1], "", integer(2, int64_t{1} << 50)};
      section.device.name = furrow::join({words_.begin() + 3, words_.end()}, " ");
    } else if (head == "overhead") {
      expect(2);
      section.overhead_s = number(1);
    } else if (head == "workspace") {
      expect(2);
      section.workspace_bytes = integer(1, int64_t{1} << 50);
    } else if (head == "unit") {
      expect(8, 9);
      section.units.push_back({words_[1], words_[2], static_cast<Work>(name(3, kWorkNames)),
                               integer(4, int64_t{1} << 40), number(5), number(6), number(7), launch(8)});
    } else if (head == "flat") {
      expect(4, 5);
      section.flats.push_back({words_[1], integer(2, INT64_MAX), number(3), launch(4)});
    } else if (head == "move") {
      expect(5);
      section.movements.push_back(
          {words_[1], static_cast<int>(integer(2, 1 << 20)), integer(3, INT64_MAX), number(4)});
    } else {
      refuse(fmt::format(
          "'{}' is not machine, build, section, device, overhead, workspace, unit, flat or move", head));
    }
  }

  void expect(size_t words, size_t most = 0) const {
    if (words_.size() < words || words_.size() > std::max(words, most))
      refuse(fmt::format("'{}' has {} words after it", words_[0], words - 1));
  }

  // The last word, of devices alone.
  double launch(size_t word) const { return words_.size() > word ? number(word) : 0; }

  int64_t integer(size_t word, int64_t most) const {
    int64_t value = 0;
    if (!parse_int(words_[word], value) || value < 0 || value > most)
      refuse(fmt::format("'{}' is not a number from 0 to {}", words_[word], most));
    return value;
  }

  double number(size_t word) const {
    double value = 0;
    if (!parse_double(words_[word], value) || !(value >= 0) || value > 1e30)
      refuse(fmt::format("'{}' is no measured number", words_[word]));
    return value;
  }

  template <size_t N>
  size_t name(size_t word, const std::array<std::string_view, N>& names) const {
    const auto found = std::ranges::find(names, words_[word]);
    if (found == names.end()) refuse(fmt::format("'{}' is none of {}", words_[word], fmt::join(names, ", ")));
    return static_cast<size_t>(found - names.begin());
  }

  std::vector<std::string> lines_, words_;
  size_t at_ = 0;
  Profile profile_;
};

// Replaces what is the same but for what was measured, and appends what is new.
template <class Sample, class Same>
void merge(const std::vector<Sample>& newer, std::vector<Sample>* into, const Same& same) {
  for (const Sample& sample : newer) {
    const auto found = std::ranges::find_if(*into, [&](const Sample& old) { return same(old, sample); });
    if (found == into->end()) {
      into->push_back(sample);
    } else {
      *found = sample;
    }
  }
}

}  // namespace

std::string unit_key(const Unit& unit) {
  std::string key;
  for (const auto& [name, attribute] : unit.attributes)
    key += fmt::format("{}={}|", name, attribute_word(attribute));
  key += shape_word(unit.input) + ">" + shape_word(unit.output);
  for (const Parameter& parameter : unit.parameters)
    key += fmt::format("|{}", fmt::join(parameter.shape, "x"));
  return key;
}

std::string work_key(const UnitWork& work) {
  const bool first = work.work == Work::kBackwardInput && !work.input_gradient;
  return unit_key(*work.unit) + (first ? "|first" : "");
}

std::string work_kind(const Unit& unit) {
  std::string kind = unit.kind;
  if (unit.compute != DType::kF32) kind += fmt::format(".{}", to_string(unit.compute));
  if (unit.tensor_degree > 1) kind += fmt::format(".tp{}", unit.tensor_degree);
  return kind;
}

const ProfileSection* Profile::section(int ranks, const ProfiledDevice& device) const {
  const auto is_of = [&](const ProfileSection& each) {
    return each.device.type == device.type && (device.name.empty() || each.device.name == device.name);
  };
  const ProfileSection* best = nullptr;
  const auto worse = [ranks](const ProfileSection& a, const ProfileSection& b) {
    const bool above_a = a.ranks >= ranks, above_b = b.ranks >= ranks;
    if (above_a != above_b) return above_b;
    return above_a ? b.ranks < a.ranks : b.ranks > a.ranks;
  };
  for (const ProfileSection& each : sections) {
    if (is_of(each) && (best == nullptr || worse(*best, each))) best = &each;
  }
  return best;
}

void merge_profile(const Profile& newer, Profile* into) {
  into->machine = newer.machine;
  into->build = newer.build;
  for (const ProfileSection& section : newer.sections) {
    const auto same = [&](const ProfileSection& old) {
      return old.ranks == section.ranks && old.threads == section.threads && old.device == section.device;
    };
    const auto found = std::ranges::find_if(into->sections, same);
    if (found == into->sections.end()) {
      into->sections.push_back(section);
      continue;
    }
    found->overhead_s = section.overhead_s;
    found->workspace_bytes = section.workspace_bytes;
    merge(section.units, &found->units, [](const UnitSample& a, const UnitSample& b) {
      return a.kind == b.kind && a.key == b.key && a.work == b.work && a.samples == b.samples;
    });
    merge(section.flats, &found->flats,
          [](const FlatSample& a, const FlatSample& b) { return a.op == b.op && a.bytes == b.bytes; });
    merge(section.movements, &found->movements, [](const MovementSample& a, const MovementSample& b) {
      return a.name == b.name && a.ranks == b.ranks && a.bytes == b.bytes;
    });
  }
}

std::string to_text(const Profile& profile) {
  std::string text = fmt::format("{}\nmachine {}\nbuild {}\n", kFirstLine, profile.machine, profile.build);
  for (const ProfileSection& section : profile.sections) {
    const bool launches = section.device.type != "cpu";
    text += fmt::format("\n# ranks threads\nsection {} {}\n", section.ranks, section.threads);
    if (launches)
      text += fmt::format("device {} {} {}\n", section.device.type, section.device.memory_bytes,
                          section.device.name);
    text += fmt::format("overhead {}\nworkspace {}\n", format_double(section.overhead_s),
                        section.workspace_bytes);
    text += fmt::format("# kind key work samples flops bytes seconds{}\n", launches ? " launch" : "");
    const auto launch = [](double seconds) {
      return seconds > 0 ? fmt::format(" {}", format_double(seconds)) : std::string();
    };
    for (const UnitSample& unit : section.units) {
      text += fmt::format("unit {} {} {} {} {} {} {}{}\n", unit.kind, unit.key,
                          kWorkNames[static_cast<size_t>(unit.work)], unit.samples, format_double(unit.flops),
                          format_double(unit.bytes), format_double(unit.seconds), launch(unit.launch_s));
    }
    text += fmt::format("# operation bytes seconds{}\n", launches ? " launch" : "");
    for (const FlatSample& flat : section.flats)
      text += fmt::format("flat {} {} {}{}\n", flat.op, flat.bytes, format_double(flat.seconds),
                          launch(flat.launch_s));
    text += "# operation or movement, ranks bytes seconds\n";
    for (const MovementSample& move : section.movements) {
      text +=
          fmt::format("move {} {} {} {}\n", move.name, move.ranks, move.bytes, format_double(move.seconds));
    }
  }
  return text;
}

Profile parse_profile(std::string_view text) { return Parser(text).parse(); }

}  // namespace furrow::plan
