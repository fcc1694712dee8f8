// The "folder" kind: image files in a folder per class, under train/, val/ and test/, or all under one.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/data/files.h"
#include "furrow/data/image_file.h"
#include "furrow/data/image_files.h"
#include "furrow/data/open_images.h"
#include "furrow/data/opening.h"
#include "furrow/data/source_kinds.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

// The files of a split and their classes, both in the order of their names.
struct Listing {
  fs::path folder;
  std::vector<std::string> classes;
  std::vector<fs::path> files;
  std::vector<int32_t> labels;
};

// What people's programs leave beside data, such as "._1.jpg" and ".ipynb_checkpoints", is none of it.
bool is_hidden(const fs::path& path) { return path.filename().native().starts_with('.'); }

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!is_hidden(entry.path())) entries.push_back(entry.path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

// Images that are left out, since no decoder here reads them.
struct LeftOut {
  int64_t count = 0;
  fs::path first;
};

constexpr int kDeepest = 32;  // a link may lead back

// The files of a class, those of folders in it too, by name; `take` returns whether to go on.
template <class Take>
bool each_image(const fs::path& folder, LeftOut* left_out, const Take& take, int depth = 0) {
  if (depth > kDeepest) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} lies {} folders deep in a class: is it a link that leads back?",
                            folder.string(), depth));
  }
  for (const fs::path& entry : sorted_entries(folder)) {
    const std::string name = entry.filename().string();
    if (fs::is_directory(entry)) {
      if (!each_image(entry, left_out, take, depth + 1)) return false;
    } else if (is_image_name(name)) {
      if (!take(entry)) return false;
    } else if (left_out != nullptr && is_other_image_name(name) && left_out->count++ == 0) {
      left_out->first = entry;
    }
  }
  return true;
}

std::string class_name(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (is_utf8(name)) return name;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("the folder {} is called after a class, and its name is not UTF-8: rename it",
                          folder.string()));
}

Listing list(const fs::path& folder, const WhileOpening& opening) {
  ListProgress progress(opening, "the images were listed");
  Listing listing{.folder = folder, .classes = {}, .files = {}, .labels = {}};
  LeftOut left_out;
  for (const fs::path& entry : sorted_entries(folder)) {
    if (!fs::is_directory(entry)) continue;
    each_image(entry, &left_out, [&](const fs::path& file) {
      progress.found();
      listing.files.push_back(file);
      listing.labels.push_back(static_cast<int32_t>(listing.classes.size()));
      return true;
    });
    listing.classes.push_back(class_name(entry));
  }
  if (listing.files.empty()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format(
            "{} has no folder with .png, .jpg, .jpeg or .webp files: images lie in a folder per class",
            folder.string()));
  }
  if (left_out.count > 0) {
    log_warning(
        fmt::format("{}: {} images are left out, the first is {}: PNG, JPEG and WebP files are read, convert "
                    "the others to PNG",
                    folder.string(), left_out.count, left_out.first.string()));
  }
  return listing;
}

// Of training, where a class without images is a mistake rather than rare.
Listing list_train(const fs::path& folder, const WhileOpening& opening) {
  Listing listing = list(folder, opening);
  for (size_t c = 0; c < listing.classes.size(); ++c) {
    if (std::ranges::binary_search(listing.labels, static_cast<int32_t>(c))) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} has no .png, .jpg, .jpeg or .webp files, but each folder there is a class: "
                            "put its images in, or remove it",
                            (folder / listing.classes[c]).string()));
  }
  return listing;
}

fs::path train_folder(const DatasetOptions& options) {
  if (!fs::is_directory(options.path)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("no folder {}: set [training] dataset_path; docs/datasets.md says "
                            "what an image folder looks like",
                            options.path.string()));
  }
  const fs::path train = options.path / "train";
  return fs::is_directory(train) ? train : options.path;
}

// The folder of images for validation, as ImageNet and others call it; empty where there is none.
fs::path validation_folder(const DatasetOptions& options) {
  fs::path found;
  if (!fs::is_directory(options.path / "train")) return found;
  for (const char* name : {"val", "valid", "validation"}) {
    const fs::path folder = options.path / name;
    if (!fs::is_directory(folder)) continue;
    if (found.empty()) {
      found = folder;
      continue;
    }
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} and {} both look like the images for validation: keep one of the two names",
                            found.string(), folder.string()));
  }
  return found;
}

// Decodes a file whenever it is asked for.
class FolderImages : public LabelledStore, private ImageFiles {
 public:
  // `kept`: a pack of them keeps the files.
  FolderImages(Listing listing, PictureSizes sizes, bool kept)
      : listing_(std::move(listing)),
        name_(listing_.folder.string()),
        cutter_(sizes),
        shape_(cutter_.shape()) {
    if (kept) decoded_ = std::make_unique<std::atomic<bool>[]>(listing_.files.size());
  }
  int64_t size() const override { return static_cast<int64_t>(listing_.files.size()); }
  const Shape& shape() const override { return shape_; }
  std::span<const int32_t> labels() const override { return listing_.labels; }
  const std::string& label_file() const override { return name_; }
  const ImageFiles* files() const override { return decoded_ ? this : nullptr; }

  Image fetch(size_t index, std::span<uint8_t> scratch) const override {
    const Image image = read(index, scratch, [this](auto file, auto pixels) { cutter_.cut(file, pixels); });
    note_whole(index);  // unlike regions
    return image;
  }
  void note_whole(size_t index) const override {
    if (decoded_) decoded_[index].store(true, std::memory_order_relaxed);
  }

  Image fetch_at(size_t index, int64_t position, const preprocess::ImageAugmenter& augmenter,
                 std::span<uint8_t> scratch) const override {
    return read(index, scratch,
                [&](auto file, auto pixels) { cutter_.cut_at(file, position, augmenter, pixels); });
  }

 private:
  template <class Cut>
  Image read(size_t index, std::span<uint8_t> scratch, const Cut& cut) const {
    const auto pixels = scratch.first(image_bytes());
    try {
      cut(read_file(listing_.files[index]).as_uint8(), pixels);
    } catch (const Error& error) {
      throw error.with_context(listing_.files[index].string());
    }
    return {pixels, listing_.labels[index]};
  }

  uint64_t file_bytes(size_t index) const override {
    const uint64_t bytes = fs::file_size(listing_.files[index]);
    if (bytes > 0 && bytes <= kMostImageFileBytes) return bytes;
    throw Error(ErrorCode::kDataLoss, fmt::format("{} has {} bytes, which is no image: take it out",
                                                  listing_.files[index].string(), bytes));
  }
  int32_t file_label(size_t index) const override { return listing_.labels[index]; }
  PictureSizes fitted_sizes() const override { return cutter_.sizes(); }

  // What the fit has decoded is a whole image; others are decoded here, as training would find out later.
  void copy(const Part& part, std::span<std::byte> out) const override {
    const fs::path& path = listing_.files[part.index];
    if (part.offset == 0 && !decoded_[part.index].load(std::memory_order_relaxed)) {
      std::vector<uint8_t> scratch(image_bytes());
      fetch(part.index, scratch);
    }
    const RandomFile file(path);
    if (file.size() == part.file_bytes && file.read_at(part.offset, out) == out.size()) return;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} has changed while it was packed: run the same command again", path.string()));
  }

  Listing listing_;
  std::string name_;
  PictureCutter cutter_;
  Shape shape_;
  std::unique_ptr<std::atomic<bool>[]> decoded_;  // whether each is a whole image, of those that are kept
};

// Of test or validation: an image of a class that training does not have is an error; classes are matched by
// name.
Listing list_like(const fs::path& folder, const std::vector<std::string>& classes) {
  Listing listing = list(folder, {});  // later than what opens the rest
  std::vector<int32_t> label_of;
  for (const std::string& name : listing.classes) {
    const auto found = std::ranges::find(classes, name);
    if (found == classes.end()) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format(
              "{} has a class '{}' that the training folder does not have: add images of it there, or "
              "remove it here",
              folder.string(), name));
    }
    label_of.push_back(static_cast<int32_t>(found - classes.begin()));
  }
  for (int32_t& label : listing.labels) label = label_of[static_cast<size_t>(label)];
  return listing;
}

}  // namespace

bool is_image_folder(const fs::path& path) {
  const fs::path train = fs::is_directory(path / "train") ? path / "train" : path;
  if (!fs::is_directory(train)) return false;
  for (const fs::path& entry : sorted_entries(train)) {
    if (!fs::is_directory(entry)) continue;
    if (!each_image(entry, nullptr, [](const fs::path&) { return false; })) return true;
  }
  return false;
}

Dataset open_folder(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const fs::path folder = train_folder(options), test = options.path / "test";
  const PictureSizes sizes = picture_sizes(options, preprocessing);
  const auto images_of = [sizes, kept = options.keep_files](Listing listing) {
    return std::make_shared<const FolderImages>(std::move(listing), sizes, kept);
  };
  Listing listing = list_train(folder, options.opening);
  ImageParts parts{
      .train = nullptr, .classes = static_cast<int64_t>(listing.classes.size()), .names = listing.classes};
  parts.pool = std::make_shared<ReaderPool>(options.readers > 0 ? options.readers : core_count());
  if (folder != options.path && fs::is_directory(test)) {
    parts.test_name = test.string();
    parts.test = [test, classes = listing.classes, images_of] { return images_of(list_like(test, classes)); };
  }
  if (const fs::path validation = validation_folder(options); !validation.empty()) {
    parts.validation = images_of(list_like(validation, listing.classes));
    log_info(fmt::format("validation: the {} images of {}; none of those for training are held back",
                         parts.validation->size(), validation.string()));
  }
  parts.train = images_of(std::move(listing));
  Dataset dataset = assemble_images(options, std::move(parts), preprocessing);
  note_reading(sizes, &dataset.preprocessing);
  return dataset;
}

DataInfo probe_folder(const DatasetOptions& options) {
  const Listing listing = list_train(train_folder(options), options.opening);
  const auto images = static_cast<int64_t>(listing.files.size());
  const int64_t held_back = validation_folder(options).empty() ? validation_count(options, images) : 0;
  return {image_fields(PictureCutter(picture_sizes(options, nullptr)).shape()),
          static_cast<int64_t>(listing.classes.size()), images - held_back};
}

}  // namespace furrow::data
