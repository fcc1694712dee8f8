#include "apps/furrow/torch_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <mutex>
#include <string>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/thread.h"
#include "furrow/base/version.h"

namespace furrow::app {
namespace {

constexpr const char* kLibrary = "libfurrow_torch.so";

// Beside the binary in lib/, as the build tree and an installation have it; else wherever the system looks.
std::string library_path() {
  char buffer[4096];
  const ssize_t length = ::readlink("/proc/self/exe", buffer, sizeof(buffer));
  if (length <= 0) return kLibrary;
  const std::string binary(buffer, static_cast<size_t>(length));
  for (const char* folder : {"/../lib/", "/../lib64/", "/"}) {
    const std::string path = parent_directory(binary) + folder + kLibrary;
    if (path_exists(path)) return path;
  }
  return kLibrary;
}

const train::EntryPoints* load() {
  const std::string path = library_path();
  // Lazy: binding all 43,000 functions of libtorch at once costs 12 ms.
  void* library = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw Error(path_exists(path) ? ErrorCode::kFailedPrecondition : ErrorCode::kNotFound,
                fmt::format("this command needs {}, which cannot be loaded: {}", kLibrary, reason));
  }
  auto* find = reinterpret_cast<train::FindEntryPoints>(::dlsym(library, train::kEntrySymbol));
  if (find == nullptr || find()->furrow_version != furrow_version()) {
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("{} is not of this furrow ({}): build or install both together", path, furrow_version()));
  }
  return find();
}

// Read by libgomp when it is loaded, for libtorch's own loops.  By default its threads spin for milliseconds
// at the end of each parallel region, which takes the time from whoever wants the core: threads of other
// processes (steps ten to twenty times slower were measured) and those of our own loops, which give way
// (tensor/kernels/team.h).
void limit_spinning() {
  if (::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", "200", /*overwrite=*/0);
}

struct Loading {
  std::once_flag once;
  std::atomic<bool> requested{false};
  std::promise<const train::EntryPoints*> promise;
  std::shared_future<const train::EntryPoints*> result = promise.get_future().share();
};

Loading& loading() {
  static Loading* instance = new Loading;  // never destroyed: the loading thread may outlive main()
  return *instance;
}

}  // namespace

void start_loading_torch() {
  Loading& state = loading();
  std::call_once(state.once, [&state] {
    state.requested = true;
    limit_spinning();
    std::thread([&state] {
      set_thread_name("load-torch");
      try {
        state.promise.set_value(load());
      } catch (...) {
        state.promise.set_exception(std::current_exception());
      }
    }).detach();
  });
}

const train::EntryPoints& torch_entry_points() {
  start_loading_torch();
  return *loading().result.get();
}

bool torch_library_requested() { return loading().requested; }

}  // namespace furrow::app
