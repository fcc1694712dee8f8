// The binary `furrow`.  stdout is the result, stderr the log; exit statuses are those of docs/errors.md.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

#include "apps/furrow/commands.h"
#include "apps/furrow/torch_library.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"

namespace furrow::app {
namespace {

int fail(ErrorCode code, std::string_view message) {
  std::fflush(stdout);
  fmt::print(stderr, "furrow: error: {}\n", message);
  return exit_status(code);
}

int run(std::vector<std::string> words) {
  if (words.empty()) words = {"help"};
  if (words[0] == "--help" || words[0] == "-h") words[0] = "help";
  if (words[0] == "--version") words = {"help", "--version"};
  const Command& command = find_command(words[0]);
  words.erase(words.begin());
  if (command.prepare != nullptr) command.prepare(words);
  for (const std::string& word : words) {
    if (word == "--help" || word == "-h") return kHelpCommand.run({{std::string(command.name)}, {}, {}});
  }
  return command.run(parse_arguments(command, std::move(words)));
}

int run_and_report(int argc, char** argv) {
  try {
    return run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    const Error whole = errno_error(error.code().value(), "use", error.path1().string());
    return fail(whole.code(), whole.what());
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kResourceExhausted, "out of memory: use a smaller training.local_batch_size");
  } catch (const std::exception& error) {
    const std::string text = error.what();  // libtorch puts a stack trace after the first line
    return fail(ErrorCode::kInternal, text.substr(0, text.find('\n')));
  }
}

}  // namespace
}  // namespace furrow::app

int main(int argc, char** argv) {
  const int status = furrow::app::run_and_report(argc, argv);
  const bool printed = std::fflush(stdout) == 0;
  if (!printed) std::perror("furrow: error: cannot write the result");
  const int final_status = printed ? status : furrow::exit_status(furrow::ErrorCode::kResourceExhausted);
  // Tearing libtorch down takes time and, while it still loads, a lock: nothing in it needs to be destroyed.
  if (furrow::app::torch_library_requested()) ::_exit(final_status);
  return final_status;
}
