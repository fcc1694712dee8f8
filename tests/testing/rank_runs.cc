#include "tests/testing/rank_runs.h"

#include <cstdlib>
#include <stdexcept>

#include "furrow/base/file.h"
#include "tests/testing/made_up_idx.h"

namespace furrow::testing {

void write_made_up_words(const std::string& path, uint32_t letters) {
  std::string text;
  for (uint32_t i = 0, state = 1; i < letters; ++i, state = state * 1664525 + 1013904223)
    text += i % 7 == 0 ? ' ' : static_cast<char>('a' + (state >> 24) % (3 + i % 12));
  write_file_atomic(path, text);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr)
    throw std::runtime_error(std::string(name) + " is not set: run this test through ctest");
  return value;
}

RankRuns::RankRuns() { write_made_up_idx(folder_.path() + "/data", 1200, 200, 12); }

std::vector<std::string> RankRuns::start(const std::string& run, int ranks,
                                         const std::vector<std::string>& more) const {
  std::vector<std::string> command = {
      environment("FURROW_BIN"), "train", environment("FURROW_SOURCE_DIR") + "/tests/multiprocess/ranks.toml",
      "--job.dump_folder",       run,     "--training.dataset_path",
      folder_.path() + "/data"};
  if (ranks > 0) command.insert(command.end(), {"--nproc", std::to_string(ranks)});
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

std::vector<std::string> RankRuns::resume(const std::string& run, int ranks,
                                          const std::vector<std::string>& more) const {
  std::vector<std::string> command = {environment("FURROW_BIN"), "train", run, "--resume"};
  if (ranks > 0) command.insert(command.end(), {"--nproc", std::to_string(ranks)});
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

std::vector<std::string> RankRuns::endless(const std::string& run, int ranks, int silence_s) const {
  return start(run, ranks,
               {"--training.steps", "1000000", "--validation.freq", "0", "--checkpoint.interval", "100",
                "--comm.train_timeout_seconds", std::to_string(silence_s)});
}

int64_t logged_step(const std::string& run_folder) {
  const std::string path = run_folder + "/metrics.jsonl";
  if (!path_exists(path)) return 0;
  const std::string text = read_file(path);
  const size_t last = text.rfind("{\"step\":", text.rfind('\n'));
  return last == std::string::npos ? 0 : std::strtoll(text.c_str() + last + 8, nullptr, 10);
}

}  // namespace furrow::testing
