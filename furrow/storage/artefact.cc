#include "furrow/storage/artefact.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "furrow/base/descriptor.h"
#include "furrow/base/error.h"
#include "furrow/base/failpoint.h"
#include "furrow/base/file.h"
#include "furrow/base/text.h"

namespace furrow::storage {
namespace {

constexpr std::string_view kParameters = "/model.safetensors";
constexpr std::string_view kDescription = "/model.toml";
constexpr uint64_t kMaxDescription = 256 << 20;  // a vocabulary is part of it

std::string parameters_path(const std::string& folder) { return folder + std::string(kParameters); }

// In pieces, so that a model larger than memory is none in it.
Hash128 digest_of(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open()) throw errno_error(errno, "read", path);
  Xxh3Stream hash;
  std::vector<std::byte> piece(size_t{1} << 20);
  for (uint64_t at = 0;;) {
    const size_t got = read_at(file.get(), at, piece, path);
    hash.update(std::span(piece).first(got));
    if (got < piece.size()) return hash.digest_128();
    at += got;
  }
}

// Removes a folder that never became the artefact.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {
    remove_all(path_);
    make_directories(path_);
  }
  ~TemporaryFolder() {
    try {
      remove_all(path_);
    } catch (const Error&) {
      // Nothing reads it; the error that brought us here matters more.
    }
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void check_utf8(const std::string& text, std::string_view what) {
  if (!is_utf8(text))
    throw Error(ErrorCode::kInvalidArgument, fmt::format("the {} of an artefact must be UTF-8", what));
}

void check_text(const Artefact& artefact) {
  check_utf8(artefact.architecture, "architecture");
  for (const auto& [key, value] : artefact.preprocessing) check_utf8(key + value, "preprocessing");
  for (const auto& [key, value] : artefact.lineage) check_utf8(key + value, "lineage");
  for (const std::string& label : artefact.labels) check_utf8(label, "labels");
  for (const TensorPort& port : artefact.inputs) check_utf8(port.name, "inputs");
  for (const TensorPort& port : artefact.outputs) check_utf8(port.name, "outputs");
}

}  // namespace

void write_artefact(const std::string& folder, Artefact artefact, std::span<const NamedArray> parameters) {
  std::vector<TensorInfo> tensors;
  for (const NamedArray& array : parameters)
    tensors.push_back({.name = array.name, .dtype = array.view.dtype, .shape = array.view.shape});
  write_artefact(folder, std::move(artefact), std::move(tensors), [&](SafetensorsWriter& writer) {
    for (const NamedArray& array : parameters) writer.write(array.name, array.view);
  });
}

void write_artefact(const std::string& folder, Artefact artefact, std::vector<TensorInfo> tensors,
                    const std::function<void(SafetensorsWriter&)>& fill) {
  check_text(artefact);
  const TemporaryFolder temporary(fmt::format("{}.tmp-{}", folder, ::getpid()));
  SafetensorsWriter writer(parameters_path(temporary.path()), std::move(tensors),
                           {{"format", "furrow-artefact"}});
  fill(writer);
  writer.commit();
  artefact.digest = digest_of(parameters_path(temporary.path()));
  write_file_atomic(temporary.path() + std::string(kDescription), to_toml(artefact));
  FURROW_FAILPOINT("artefact.before_rename");
  replace_directory(temporary.path(), folder);
}

Artefact read_artefact(const std::string& folder) {
  try {
    Artefact artefact = parse_artefact(read_file(folder + std::string(kDescription), kMaxDescription));
    if (digest_of(parameters_path(folder)) != artefact.digest) {
      throw Error(ErrorCode::kDataLoss,
                  "model.safetensors is damaged or of another model: its digest differs");
    }
    return artefact;
  } catch (const Error& error) {
    throw error.with_context("artefact " + folder);
  }
}

SafetensorsFile open_parameters(const std::string& folder) {
  return SafetensorsFile(parameters_path(folder));
}

}  // namespace furrow::storage
