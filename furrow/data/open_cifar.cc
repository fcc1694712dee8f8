// The "cifar10" kind: the .bin files of the binary version, in one folder.
#include <fmt/format.h>

#include <utility>

#include "furrow/base/error.h"
#include "furrow/data/cifar.h"
#include "furrow/data/files.h"
#include "furrow/data/open_images.h"
#include "furrow/data/source_kinds.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> train_files(const DatasetOptions& options) {
  if (options.train_files.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "[data] train_files is empty: name the files to train on");
  }
  std::vector<fs::path> files;
  for (const std::string& name : options.train_files) files.push_back(require_file(options.path / name));
  return files;
}

// All of the test files or none.  Nothing is opened.
std::vector<fs::path> test_files(const DatasetOptions& options) {
  bool any = false;
  for (const std::string& name : options.test_files) any = any || !find_file(options.path / name).empty();
  std::vector<fs::path> files;
  if (!any) return files;
  for (const std::string& name : options.test_files) files.push_back(require_file(options.path / name));
  return files;
}

}  // namespace

Dataset open_cifar10(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const auto load = [](const std::vector<fs::path>& files) {
    return std::make_shared<const LabelledImages>(load_cifar(files));
  };
  const std::vector<fs::path> test = test_files(options);
  ImageParts parts{.train = load(train_files(options)), .classes = kCifarClasses, .names = cifar_names()};
  if (!test.empty()) {
    parts.test = [test, load] { return load(test); };
    parts.test_name = test.front().string();
  }
  return assemble_images(options, std::move(parts), preprocessing);
}

DataInfo probe_cifar10(const DatasetOptions& options) {
  int64_t records = 0;
  for (const fs::path& file : train_files(options)) {
    const bool packed = file.extension() == ".gz";
    records += count_cifar_records(packed ? read_contents(file).contents.size() : fs::file_size(file), file);
  }
  return {image_fields({3, 32, 32}), kCifarClasses, records - validation_count(options, records)};
}

}  // namespace furrow::data
