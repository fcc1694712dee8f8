#include "furrow/train/shared_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "furrow/base/descriptor.h"
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
    const Descriptor file(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file.open()) throw errno_error(errno, "create", path_);
  }
  ~Probe() { ::unlink(path_.c_str()); }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

 private:
  std::string path_;
};

// On rank 0: whether the folder it is to be made in is tried.  What is made before it is needed would be left
// behind by a run that never saves.
bool is_to_come(const std::string& folder) {
  if (path_exists(folder)) return false;
  const bool has_parent = path_exists(parent_directory(folder));
  if (!has_parent) make_directories(folder);
  return has_parent;
}

}  // namespace

void require_shared_folder(const RankContext& rank, const std::string& folder, const std::string& tag) {
  if (rank.alone()) return;
  const comm::Group world = rank.world();
  const comm::Roster& roster = rank.communicator->roster();
  const auto choose = [&] { return std::string(is_to_come(folder) ? "parent" : "itself"); };
  const bool parent = text_of_first(world, "shared folder", choose) == "parent";
  const std::string place = parent ? parent_directory(folder) : folder;  // as each rank has it
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
