#include "furrow/train/shared_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/train/rank_texts.h"

namespace furrow::train {
namespace {

constexpr const char* kRemedy =
    "the ranks write one checkpoint together: give --job.dump_folder (or --checkpoint.folder) a path, from "
    "the "
    "root, on a file system that all hosts share, or set --checkpoint.enable false";

// Gone with the object.
class Probe {
 public:
  explicit Probe(std::string path) : path_(std::move(path)) {
    const int descriptor = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor < 0) throw errno_error(errno, "create", path_);
    ::close(descriptor);
  }
  ~Probe() { ::unlink(path_.c_str()); }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

 private:
  std::string path_;
};

// One that rank 0 has: what is made before it is needed would be left behind by a run that never saves.
std::string place_of(const std::string& folder) {
  if (path_exists(folder)) return folder;
  const std::string parent = parent_directory(folder);
  if (!path_exists(parent)) make_directories(folder);
  return path_exists(parent) ? parent : folder;
}

}  // namespace

void require_shared_folder(const RankContext& rank, const std::string& folder, const std::string& tag) {
  if (rank.alone()) return;
  const comm::Group world = rank.world();
  const comm::Roster& roster = rank.communicator->roster();
  const std::string place = text_of_first(world, "shared folder", [&] { return place_of(folder); });
  const auto probe_of = [&](int r) { return fmt::format("{}/.seen-{}-{}", place, tag, r); };
  std::unique_ptr<Probe> own;
  texts_of_all(world, "shared folder", [&] {
    try {
      own = std::make_unique<Probe>(probe_of(rank.rank));
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", error.what(), kRemedy));
    }
    return std::string();
  });
  text_of_first(world, "shared folder", [&] {
    for (int r = 0; r < world.size(); ++r) {
      if (path_exists(probe_of(r))) continue;
      throw Error(ErrorCode::kFailedPrecondition,
                  fmt::format("what {} writes into {} does not come into that of {}: {}",
                              comm::describe(roster, r), place, comm::describe(roster, 0), kRemedy));
    }
    return std::string();
  });
}

}  // namespace furrow::train
