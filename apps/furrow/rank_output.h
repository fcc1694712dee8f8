// What the ranks of a local job print, on one terminal and in one file each.
//
// Rank 0 speaks for the job: its lines pass unchanged, its live progress line stays the last one on the
// screen.  Lines of other ranks carry "[rank 2] " in front.  From a line that begins with "furrow: error: "
// to the end of its output a rank's words are held back: the launcher says at the end which error counts.
// Files get every line, without escape sequences.  Not thread safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/file.h"

namespace furrow::app {

class RankOutput {
 public:
  using Write = std::function<void(std::string_view)>;
  RankOutput(int ranks, Write write);

  // Everything so far and from now on goes into <folder>/rank-N.log as well, after what such a file already
  // holds.  A file that cannot be written is given up with a warning on the screen: a job outlives its log.
  void store_in(const std::string& folder);
  bool stored() const { return !files_.empty() || gave_up_; }

  void add(int rank, std::string_view bytes);
  void end(int rank);  // a last line without its newline counts

  // What the rank printed after "furrow: error: ", without the last newline; empty: nothing.
  const std::string& error(int rank) const { return state(rank).error; }

 private:
  struct Rank {
    std::string rest;     // an unfinished line
    std::string error;    // held back
    std::string pending;  // for the file, while there is none
    bool failing = false;
  };
  const Rank& state(int rank) const { return ranks_[static_cast<size_t>(rank)]; }
  void line(int rank, std::string_view text);
  void print(std::string_view text, bool redraw);  // above the live line, which is drawn again
  void show_live(std::string_view rest);
  void store(int rank, std::string_view text);
  void give_up(const Error& error);

  std::vector<Rank> ranks_;
  std::vector<std::unique_ptr<AppendFile>> files_;
  Write write_;
  std::string live_;  // rank 0's progress line as it stands on the screen
  bool gave_up_ = false;
};

}  // namespace furrow::app
