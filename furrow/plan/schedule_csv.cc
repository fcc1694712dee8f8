#include "furrow/plan/schedule_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/plan/schedule_order.h"

namespace furrow::plan {
namespace {

// What a cell may say.  The first four are Phase.
enum class Verb : uint8_t { kF, kB, kI, kW, kSendF, kRecvF, kSendB, kRecvB, kIgnored };
struct VerbRow {
  std::string_view word;
  Verb verb;
};
constexpr VerbRow kVerbs[] = {
    {"F", Verb::kF},
    {"B", Verb::kB},
    {"I", Verb::kI},
    {"W", Verb::kW},
    {"SEND_F", Verb::kSendF},
    {"RECV_F", Verb::kRecvF},
    {"SEND_B", Verb::kSendB},
    {"RECV_B", Verb::kRecvB},
    {"UNSHARD", Verb::kIgnored},
    {"RESHARD", Verb::kIgnored},
    {"REDUCE_GRAD", Verb::kIgnored},
};

struct Cell {
  Verb verb = Verb::kF;
  int32_t stage = 0;
  int32_t turn = 0;
  friend auto operator<=>(const Cell&, const Cell&) = default;
};

using Lines = std::vector<std::vector<Cell>>;

bool computes(Verb verb) { return verb <= Verb::kW; }

Action action_of(const Cell& cell) { return {static_cast<Phase>(cell.verb), cell.stage, cell.turn}; }

std::string to_text(const Cell& cell) {
  return fmt::format("{}{}{}", cell.stage, kVerbs[static_cast<size_t>(cell.verb)].word, cell.turn);
}

class Reader {
 public:
  Reader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  Lines read() {
    Lines lines;
    while (!text_.empty()) {
      ++line_;
      column_ = 0;
      std::string_view line = take('\n', &text_);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      std::vector<Cell>& cells = lines.emplace_back();
      while (!line.empty()) {
        ++column_;
        read_cell(trim(take(',', &line)), &cells);
      }
    }
    while (!lines.empty() && lines.back().empty()) lines.pop_back();
    if (lines.empty()) fail("no line has an action");
    return lines;
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("schedule {}: {}", name_, message));
  }

  [[noreturn]] void fail_at(std::string_view cell) const {
    fail(fmt::format(
        "line {}, cell {}: \"{}\" is no action: it must be a stage, F, B, I or W, and a turn, as 2F0, "
        "or one of PyTorch's with communication, as 2SEND_F0",
        line_, column_, cell.substr(0, 40)));
  }

  // Up to the separator, which goes too.
  static std::string_view take(char separator, std::string_view* text) {
    const size_t end = std::min(text->find(separator), text->size());
    const std::string_view piece = text->substr(0, end);
    text->remove_prefix(std::min(end + 1, text->size()));
    return piece;
  }

  static std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
  }

  void read_cell(std::string_view cell, std::vector<Cell>* cells) {
    if (cell.empty()) return;
    if (cell.front() != '(') return read_action(cell, cell, cells);
    const size_t end = cell.find(')');
    if (end == std::string_view::npos || cell.substr(end + 1) != "OVERLAP_F_B") fail_at(cell);
    std::string_view parts = cell.substr(1, end - 1);
    if (parts.empty()) fail_at(cell);
    while (!parts.empty()) read_action(trim(take(';', &parts)), cell, cells);
  }

  void read_action(std::string_view text, std::string_view cell, std::vector<Cell>* cells) {
    const std::optional<int32_t> stage = number(&text);
    const auto digit = std::find_if(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    const std::string_view word = text.substr(0, static_cast<size_t>(digit - text.begin()));
    text.remove_prefix(word.size());
    const auto* row = std::find_if(std::begin(kVerbs), std::end(kVerbs),
                                   [word](const VerbRow& each) { return each.word == word; });
    if (!stage || row == std::end(kVerbs)) fail_at(cell);
    if (row->verb == Verb::kIgnored) {
      if (!text.empty() && (!number(&text) || !text.empty())) fail_at(cell);
      return;
    }
    const std::optional<int32_t> turn = number(&text);
    if (!turn || !text.empty()) fail_at(cell);
    cells->push_back({row->verb, *stage, *turn});
  }

  static std::optional<int32_t> number(std::string_view* text) {
    int32_t value = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error != std::errc() || value < 0 || value >= kMostActions) return std::nullopt;
    text->remove_prefix(static_cast<size_t>(end - text->data()));
    return value;
  }

  std::string_view text_;
  const std::string& name_;
  int line_ = 0, column_ = 0;
};

Schedule computing_of(const Lines& lines, std::string name) {
  Schedule schedule;
  schedule.name = std::move(name);
  schedule.ranks = static_cast<int32_t>(lines.size());
  schedule.stages = schedule.turns = 0;
  int64_t forwards = 0;
  for (const std::vector<Cell>& line : lines) {
    std::vector<Action>& actions = schedule.actions.emplace_back();
    for (const Cell& cell : line) {
      if (!computes(cell.verb)) continue;
      actions.push_back(action_of(cell));
      schedule.stages = std::max(schedule.stages, cell.stage + 1);
      schedule.turns = std::max(schedule.turns, cell.turn + 1);
      if (cell.verb == Verb::kF) ++forwards;
    }
  }
  if (forwards != int64_t{schedule.stages} * schedule.turns) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("schedule {}: {} forward actions, but {} stages x {} turns = {}", schedule.name, forwards,
                    schedule.stages, schedule.turns, int64_t{schedule.stages} * schedule.turns));
  }
  schedule.rank_of_stage.assign(static_cast<size_t>(schedule.stages), 0);
  for (int32_t rank = schedule.ranks; rank-- > 0;) {
    for (const Action& action : schedule.actions[rank]) schedule.rank_of_stage[action.stage] = rank;
  }
  return schedule;
}

// ---- the form with communication

// Activations (F) and gradients (B) that go from one rank to another.
struct Transfer {
  Cell send, receive;
};

// What an action makes for another rank.
std::optional<Transfer> transfer_of(const Schedule& schedule, const Action& action) {
  const bool forward = action.phase == Phase::kForward;
  if (action.phase == Phase::kBackwardWeight) return std::nullopt;
  const int32_t to = action.stage + (forward ? 1 : -1);
  if (to < 0 || to >= schedule.stages) return std::nullopt;
  if (schedule.rank_of_stage[to] == schedule.rank_of_stage[action.stage]) return std::nullopt;
  return Transfer{{forward ? Verb::kSendF : Verb::kSendB, action.stage, action.turn},
                  {forward ? Verb::kRecvF : Verb::kRecvB, to, action.turn}};
}

// The lines as steps: what computes waits for what it receives, what receives for what is sent.
class Communication {
 public:
  Communication(const Schedule& schedule, const Lines& lines) : schedule_(schedule) {
    for (size_t rank = 0; rank < lines.size(); ++rank) {
      std::vector<int32_t>& list = waits_.lists.emplace_back();
      for (const Cell& cell : lines[rank]) {
        const auto step = static_cast<int32_t>(cells_.size());
        if (!steps_.emplace(cell, step).second) fail(fmt::format("{} stands there twice", to_text(cell)));
        list.push_back(step);
        cells_.push_back(cell);
        waits_.rank_of.push_back(static_cast<int32_t>(rank));
      }
    }
    waits_.needs.assign(cells_.size(), {-1, -1});
    waits_.text = [this](int32_t step) { return to_text(cells_[step]); };
  }

  // Error{invalid_argument}.
  void check() {
    std::set<Cell> expected;
    const ScheduleWaits computing(schedule_);
    for (size_t i = 0; i < computing.actions.size(); ++i) {
      const int32_t step = step_of(computing.actions[i]);
      for (const int32_t need : computing.waits.needs[i]) {
        if (need >= 0) add_need(step, source_of(computing.actions[need], step));
      }
      if (const auto transfer = transfer_of(schedule_, computing.actions[i])) {
        link(step, *transfer);
        expected.insert({transfer->send, transfer->receive});
      }
    }
    for (const Cell& cell : cells_) {
      if (!computes(cell.verb) && !expected.contains(cell)) {
        fail(fmt::format("{} moves nothing that another rank needs", to_text(cell)));
      }
    }
    const std::string cycle = find_cycle(waits_);
    if (!cycle.empty()) fail(cycle);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("schedule {}: {}", schedule_.name, message));
  }

  int32_t find(const Cell& cell, int32_t rank) const {
    const auto found = steps_.find(cell);
    if (found == steps_.end()) fail(fmt::format("rank {} lacks {}", rank, to_text(cell)));
    if (waits_.rank_of[found->second] != rank) {
      fail(fmt::format("{} stands on rank {}, but it belongs to rank {}", to_text(cell),
                       waits_.rank_of[found->second], rank));
    }
    return found->second;
  }

  int32_t step_of(const Action& action) const {
    return steps_.at({static_cast<Verb>(action.phase), action.stage, action.turn});
  }

  // Where `step` finds what `action` makes: at the action, or at what its rank receives.
  int32_t source_of(const Action& action, int32_t step) const {
    const int32_t made = step_of(action);
    if (waits_.rank_of[made] == waits_.rank_of[step]) return made;
    return find(transfer_of(schedule_, action)->receive, waits_.rank_of[step]);
  }

  void link(int32_t step, const Transfer& transfer) {
    const int32_t send = find(transfer.send, waits_.rank_of[step]);
    const int32_t receive = find(transfer.receive, schedule_.rank_of_stage[transfer.receive.stage]);
    add_need(send, step);
    add_need(receive, send);
  }

  void add_need(int32_t step, int32_t need) {
    std::array<int32_t, 2>& needs = waits_.needs[step];
    needs[needs[0] < 0 ? 0 : 1] = need;
  }

  const Schedule& schedule_;
  std::vector<Cell> cells_;
  std::map<Cell, int32_t> steps_;
  Waits waits_;
};

std::string write(const Lines& lines) {
  std::string text;
  for (const std::vector<Cell>& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      if (i > 0) text += ',';
      text += to_text(line[i]);
    }
    text += '\n';
  }
  return text;
}

Cell cell_of(const Action& action) { return {static_cast<Verb>(action.phase), action.stage, action.turn}; }

// A sender puts both ends in place, so any two ranks see their transfers in one order.
Lines with_communication(const Schedule& schedule) {
  const ScheduleWaits steps(schedule);
  Lines lines(static_cast<size_t>(schedule.ranks));
  for (const int32_t step : executable_order(steps.waits)) {
    const Action& action = steps.actions[step];
    std::vector<Cell>& line = lines[schedule.rank_of_stage[action.stage]];
    line.push_back(cell_of(action));
    const std::optional<Transfer> transfer = transfer_of(schedule, action);
    if (!transfer) continue;
    line.push_back(transfer->send);
    lines[schedule.rank_of_stage[transfer->receive.stage]].push_back(transfer->receive);
  }
  return lines;
}

}  // namespace

std::string to_csv(const Schedule& schedule, ScheduleForm form) {
  if (form == ScheduleForm::kCommunication) return write(with_communication(schedule));
  Lines lines;
  for (const std::vector<Action>& actions : schedule.actions) {
    std::vector<Cell>& line = lines.emplace_back();
    for (const Action& action : actions) line.push_back(cell_of(action));
  }
  return write(lines);
}

Schedule parse_schedule_csv(std::string_view text, std::string name) {
  const Lines lines = Reader(text, name).read();
  Schedule schedule = computing_of(lines, std::move(name));
  validate(schedule);
  const bool communicates = std::any_of(lines.begin(), lines.end(), [](const std::vector<Cell>& line) {
    return std::any_of(line.begin(), line.end(), [](const Cell& cell) { return !computes(cell.verb); });
  });
  if (communicates) Communication(schedule, lines).check();
  return schedule;
}

}  // namespace furrow::plan
