#include "apps/furrow/rank_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace furrow::app {
namespace {

constexpr std::string_view kClear = "\r\x1b[K";  // how observe/console.h redraws its line
constexpr std::string_view kErrorPrefix = "furrow: error: ";
constexpr size_t kLongestLine = 64 << 10;  // longer ones are cut in pieces
constexpr size_t kLongestError = 16 << 10;
constexpr size_t kMostPending = 1 << 20;  // of one rank, before there is a run folder

// Without "\x1b[...m" and the like.
std::string without_escapes(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\x1b') {
      plain += text[i];
      continue;
    }
    if (i + 1 < text.size() && text[i + 1] == '[') ++i;
    while (i + 1 < text.size() && !(text[i + 1] >= '@' && text[i + 1] <= '~')) ++i;
    ++i;
  }
  return plain;
}

std::string_view after_clear(std::string_view text) {
  const size_t clear = text.rfind(kClear);
  return clear == std::string_view::npos ? text : text.substr(clear + kClear.size());
}

}  // namespace

RankOutput::RankOutput(int ranks, Write write)
    : ranks_(static_cast<size_t>(ranks)), write_(std::move(write)) {}

void RankOutput::store_in(const std::string& folder) {
  try {
    make_directories(folder);
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      files_.push_back(std::make_unique<AppendFile>(fmt::format("{}/rank-{}.log", folder, rank)));
      files_.back()->append(ranks_[rank].pending);
      ranks_[rank].pending.clear();
    }
  } catch (const Error& error) {
    give_up(error);
  }
}

void RankOutput::add(int rank, std::string_view bytes) {
  std::string& rest = ranks_[static_cast<size_t>(rank)].rest;
  size_t searched = rest.size();
  rest.append(bytes);
  size_t begin = 0;
  for (size_t newline; (newline = rest.find('\n', searched)) != std::string::npos;) {
    line(rank, std::string_view(rest).substr(begin, newline - begin));
    begin = searched = newline + 1;
  }
  rest.erase(0, begin);
  if (rank == 0 && rest.find(kClear) != std::string::npos) {
    rest.erase(0, rest.rfind(kClear));  // what was drawn before is gone from the screen
    show_live(rest);
  }
  if (rest.size() > kLongestLine) end(rank);
}

void RankOutput::end(int rank) {
  const std::string rest = std::exchange(ranks_[static_cast<size_t>(rank)].rest, "");
  if (!after_clear(rest).empty() && (rank != 0 || live_.empty())) line(rank, rest);
  if (rank == 0 && !live_.empty()) write_(kClear);
  if (rank == 0) live_.clear();
}

void RankOutput::line(int rank, std::string_view text) {
  Rank& from = ranks_[static_cast<size_t>(rank)];
  if (rank == 0) text = after_clear(text);
  store(rank, without_escapes(text) + '\n');
  const bool first = !from.failing && text.starts_with(kErrorPrefix);
  from.failing = from.failing || first;
  if (!from.failing) {
    print(rank == 0 ? std::string(text) : fmt::format("[rank {}] {}", rank, text), rank != 0);
  } else if (from.error.size() + text.size() < kLongestError) {
    if (!first) from.error += '\n';
    from.error += first ? text.substr(kErrorPrefix.size()) : text;
  }
}

void RankOutput::print(std::string_view text, bool redraw) {
  const std::string before(live_.empty() ? "" : kClear);
  if (!redraw) live_.clear();  // rank 0 draws it again itself
  write_(fmt::format("{}{}\n{}", before, text, live_));
}

void RankOutput::show_live(std::string_view rest) {
  rest.remove_prefix(kClear.size());
  const std::string_view now = rest.substr(0, rest.find('\r'));  // the start of the next redraw is not shown
  if (now == live_) return;
  live_ = now;
  write_(fmt::format("{}{}", kClear, live_));
}

void RankOutput::store(int rank, std::string_view text) {
  if (gave_up_) return;
  std::string& pending = ranks_[static_cast<size_t>(rank)].pending;
  if (files_.empty()) {
    if (pending.size() + text.size() <= kMostPending) pending.append(text);
    return;
  }
  try {
    files_[static_cast<size_t>(rank)]->append(text);
  } catch (const Error& error) {
    give_up(error);
  }
}

void RankOutput::give_up(const Error& error) {
  gave_up_ = true;
  files_.clear();
  print(fmt::format("warning: what the ranks print is no longer stored: {}", error.what()), true);
}

}  // namespace furrow::app
