// What an error has to tell when a rank is at fault; one matcher for every test of faults.
#pragma once

#include <gmock/gmock.h>

#include <cstdint>
#include <regex>
#include <string>

namespace furrow::testing {

// An operation as errors name it: "all_reduce 'loss' #12".
inline constexpr const char* kOperation = "[a-z_]+( '[^']+')? #([0-9]+)";

// How far the rank at fault was: an operation, and when.
inline bool tells_progress(const std::string& text) {
  return std::regex_search(text, std::regex("last progress: " + std::string(kOperation) +
                                            "[^;]*, (begun|finished|heard of) [^;]* ago"));
}

// The rank at fault by number, host and process.
MATCHER_P2(NamesRank, rank, pid, "names rank " + std::to_string(rank) + " with host and process") {
  const std::string process = pid > 0 ? std::to_string(pid) : "[0-9]+";
  return std::regex_search(
      arg, std::regex("rank " + std::to_string(rank) + " \\(host [^,()]+, pid " + process + "\\)"));
}

// An error of a rank that has met a fault of `rank`: who broke, where, in which operation of its own this
// rank was, by kind, label and number, and how far the one at fault had come.  `pid` 0: any.
MATCHER_P2(TellsOfTheFault, rank, pid,
           "names rank " + std::to_string(rank) +
               ", host, process, operation, its number and last progress") {
  const bool operation = std::regex_search(arg, std::regex(std::string(kOperation) + "[^;]* in group "));
  return ::testing::Value(arg, NamesRank(rank, pid)) && operation && tells_progress(arg);
}

// The numbers of the operation in which this rank was, and of the last one of the rank at fault; -1: none.
struct ToldNumbers {
  int64_t own = -1, last = -1;
};
inline ToldNumbers told_numbers(const std::string& text) {
  const auto number = [&](const std::string& before) {
    std::smatch found;
    return std::regex_search(text, found, std::regex(before + kOperation)) ? std::stoll(found[2]) : -1;
  };
  return {number("error: "), number("last progress: ")};
}

}  // namespace furrow::testing
