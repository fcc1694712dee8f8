#include "furrow/comm/mpi/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <mutex>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/version.h"

namespace furrow::comm {
namespace {

constexpr const char* kRemedy =
    "install an MPI (Debian: libopenmpi-dev, openmpi-bin) and build furrow again, or set [comm] backend = "
    "\"native\"";

// Beside the library or program that this code is in, or in lib/ next to its folder; else wherever the system
// looks.
std::string library_path() {
  Dl_info self = {};
  if (::dladdr(reinterpret_cast<const void*>(&mpi_plugin), &self) == 0 || self.dli_fname == nullptr) {
    return kMpiPluginLibrary;
  }
  const std::string folder = parent_directory(self.dli_fname);
  for (const char* below : {"/", "/../lib/", "/../lib64/"}) {
    const std::string path = folder + below + kMpiPluginLibrary;
    if (path_exists(path)) return path;
  }
  return kMpiPluginLibrary;
}

const MpiPlugin& load() {
  const std::string path = library_path();
  // Global: parts that Open MPI loads by itself look for its symbols there.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw Error(path_exists(path) ? ErrorCode::kFailedPrecondition : ErrorCode::kNotFound,
                fmt::format("the communication backend mpi needs {}, which cannot be loaded ({}): {}",
                            kMpiPluginLibrary, reason, kRemedy));
  }
  const auto find = reinterpret_cast<FindMpiPlugin>(::dlsym(library, kMpiPluginSymbol));
  if (find == nullptr || find()->furrow_version != furrow_version()) {
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("{} is not of this furrow ({}): build or install both together", path, furrow_version()));
  }
  return *find();
}

}  // namespace

const MpiPlugin& mpi_plugin() {
  static std::mutex mutex;
  static const MpiPlugin* loaded = nullptr;
  const std::lock_guard lock(mutex);
  if (loaded == nullptr) loaded = &load();
  return *loaded;
}

}  // namespace furrow::comm
