// What this process runs on.  Thread safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace furrow {

std::string host_name();
int process_id();
std::string cpu_model();  // "AMD EPYC 9454", "unknown cpu" where /proc does not say

// The widest vector instruction set that the machine offers: "avx512", "avx2", "sse4.2", "sse2", "neon",
// "scalar". Equal bits are promised for one instruction set only, so it stands in run headers and manifests.
std::string instruction_set();

int core_count();  // cores that this process may use (its affinity mask), at least 1
// Cores that processes of this host may use together; those that are gone count nothing.  At least 1.
int core_count_of(std::span<const int64_t> process_ids);
int default_threads();          // OMP_NUM_THREADS (of "4,2" the first) where it is a number above 0, else
                                // core_count()
uint64_t total_memory_bytes();  // of the machine

// Where furrow keeps what it knows of this machine for its user: the file that `variable` of the environment
// names, else furrow/NAME in the user's configuration folder (XDG_CONFIG_HOME, else ~/.config).
std::string user_file(const char* variable, std::string_view name);

// Is a library whose path holds `part` mapped into this process?  library_is_mapped("libtorch") in the
// start-up tests.
bool library_is_mapped(std::string_view part);

}  // namespace furrow
