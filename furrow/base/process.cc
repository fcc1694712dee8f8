#include "furrow/base/process.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <mutex>

#include "furrow/base/cpu_quota.h"
#include "furrow/base/log.h"

namespace furrow {
namespace {

std::string trim(std::string text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// Of so many cores those that control groups leave: whole ones, as whoever has a part of one more only waits
// for it.
int within_quota(int cores) {
  static const double quota = cpu_quota();
  return std::max(1, quota > 0 ? std::min(cores, static_cast<int>(quota)) : cores);
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return "localhost";
  return name;
}

int process_id() { return static_cast<int>(::getpid()); }

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line)) {
    const bool model = line.rfind("model name", 0) == 0 || line.rfind("Model", 0) == 0;
    if (const size_t colon = line.find(':'); model && colon != std::string::npos) {
      return trim(line.substr(colon + 1));
    }
  }
  return "unknown cpu";
}

std::string instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
  if (__builtin_cpu_supports("sse4.2")) return "sse4.2";
  return "sse2";
#elif defined(__aarch64__)
  return "neon";
#else
  return "scalar";
#endif
}

int core_count() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(0, sizeof(mask), &mask) == 0) return within_quota(CPU_COUNT(&mask));
  return within_quota(static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
}

int core_count_of(std::span<const int64_t> process_ids) {
  cpu_set_t together;
  CPU_ZERO(&together);
  for (const int64_t id : process_ids) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (::sched_getaffinity(static_cast<pid_t>(id), sizeof(mask), &mask) == 0)
      CPU_OR(&together, &together, &mask);
  }
  return within_quota(CPU_COUNT(&together));
}

int default_threads() {
  const char* given = std::getenv("OMP_NUM_THREADS");
  const std::string_view text = given == nullptr ? "" : given;
  int threads = 0;
  std::from_chars(text.data(), text.data() + text.size(), threads);
  if (threads > 0 || text.empty()) return threads > 0 ? threads : core_count();
  static std::once_flag said;
  std::call_once(said, [&] {
    log_warning(
        fmt::format("OMP_NUM_THREADS={} is no number above 0 and does not count: {} of this process's "
                    "cores do; set [training] threads, or correct it",
                    text, core_count()));
  });
  return core_count();
}

uint64_t total_memory_bytes() {
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::string user_file(const char* variable, std::string_view name) {
  const auto value = [](const char* key) {
    const char* text = std::getenv(key);
    return std::string(text == nullptr ? "" : text);
  };
  if (std::string file = value(variable); !file.empty()) return file;
  std::string folder = value("XDG_CONFIG_HOME");
  if (folder.empty()) folder = value("HOME") + "/.config";
  return folder.append("/furrow/").append(name);
}

bool library_is_mapped(std::string_view part) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    const size_t path = line.find('/');
    if (path != std::string::npos && line.find(part, path) != std::string::npos) return true;
  }
  return false;
}

}  // namespace furrow
