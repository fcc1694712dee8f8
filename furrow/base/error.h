// The one exception type, and the invariant check.
//
//   throw Error(ErrorCode::kNotFound, fmt::format("no file {}: check [training] dataset_path", path));
//   try { load(x); } catch (Error& e) { throw e.with_context("loading checkpoint " + dir); }
//
// An error ends what the user asked for.  Where a caller branches in normal operation, return a value.
// A message names the thing and the remedy; an unknown name lists the known ones (base/names.h).
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace furrow {

// A closed list.  docs/errors.md maps each to an exit status.
enum class ErrorCode {
  kInvalidArgument,
  kNotFound,
  kAlreadyExists,
  kPermissionDenied,
  kUnauthenticated,
  kFailedPrecondition,
  kUnavailable,
  kDeadlineExceeded,
  kResourceExhausted,
  kDataLoss,
  kCancelled,
  kUnimplemented,
  kInternal,
};

std::string_view to_string(ErrorCode code);  // "invalid_argument"

// Exit status of the command line for a code: invalid_argument 2, then 3.. in the order of the enum.
int exit_status(ErrorCode code);

class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message);

  // Returns the same error with "context: " in front; contexts read outermost first.
  [[nodiscard]] Error with_context(std::string context) const;

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }                 // without contexts
  const std::vector<std::string>& contexts() const { return contexts_; }  // outermost first
  const char* what() const noexcept override { return what_.c_str(); }    // "context: context: message"

 private:
  ErrorCode code_;
  std::string message_;
  std::vector<std::string> contexts_;
  std::string what_;
};

[[noreturn]] void check_failed(const char* file, int line, const char* expression, const std::string& detail);

}  // namespace furrow

// Invariants of the program itself, on in every build; never for user input.  Throws Error{internal}.
#define FURROW_CHECK(expression, ...)                                                      \
  do {                                                                                     \
    if (!(expression)) [[unlikely]]                                                        \
      ::furrow::check_failed(__FILE__, __LINE__, #expression, ::std::string{__VA_ARGS__}); \
  } while (false)
