#include "furrow/base/error.h"

#include <fmt/format.h>

#include <utility>

namespace furrow {
namespace {

std::string join(const std::vector<std::string>& contexts, const std::string& message) {
  std::string text;
  for (const std::string& context : contexts) text += context + ": ";
  return text + message;
}

}  // namespace

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kAlreadyExists:
      return "already_exists";
    case ErrorCode::kPermissionDenied:
      return "permission_denied";
    case ErrorCode::kUnauthenticated:
      return "unauthenticated";
    case ErrorCode::kFailedPrecondition:
      return "failed_precondition";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kDeadlineExceeded:
      return "deadline_exceeded";
    case ErrorCode::kResourceExhausted:
      return "resource_exhausted";
    case ErrorCode::kDataLoss:
      return "data_loss";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kUnimplemented:
      return "unimplemented";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

int exit_status(ErrorCode code) { return static_cast<int>(code) + 2; }

Error::Error(ErrorCode code, std::string message)
    : code_(code), message_(std::move(message)), what_(message_) {}

Error Error::with_context(std::string context) const {
  Error outer = *this;
  outer.contexts_.insert(outer.contexts_.begin(), std::move(context));
  outer.what_ = join(outer.contexts_, outer.message_);
  return outer;
}

void check_failed(const char* file, int line, const char* expression, const std::string& detail) {
  throw Error(ErrorCode::kInternal, fmt::format("{}:{}: check failed: {}{}{}", file, line, expression,
                                                detail.empty() ? "" : ": ", detail));
}

}  // namespace furrow
