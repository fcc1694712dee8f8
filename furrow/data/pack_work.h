// What goes on beside the writing of a pack (pack.h): where it is written, and whether what an interrupted
// writer left there is of the same data.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "furrow/base/descriptor.h"
#include "furrow/data/dataset.h"

namespace furrow::data {

// Error{already_exists} unless `folder` can be made.
void check_absent(const std::string& folder);

// Error{invalid_argument} when `folder` lies in a folder that it is made of, which it would change.
void check_apart(const std::string& folder, const DatasetOptions& options);

// "x/", "x/.", "x": one folder.
std::string plain_folder(const std::string& folder);

// `<folder>.partial` while its writer lives, from before the data are opened: a text is tokenised into it
// (WhileOpening::spool).  What is there of another fingerprint is removed; what is of the same one stays.
class PackWork {
 public:
  // Error{already_exists}: `folder`; {unavailable}: another process has it.
  PackWork(const std::string& folder, const std::string& fingerprint);
  ~PackWork();  // removes the folder where nothing has come of it
  PackWork(const PackWork&) = delete;
  PackWork& operator=(const PackWork&) = delete;
  const std::string& folder() const { return working_; }

 private:
  void keep_what_is_of(const std::string& fingerprint);
  std::string working_;
  Descriptor lock_;  // the file that holds the fingerprint
};

// A file of PackWork or of a spool?
bool belongs_to_opening(std::string_view name);
void remove_what_opening_left(const std::string& working);

// Names, sizes and times of change of the file, or of all files in the folder.
std::string fingerprint_of(const std::filesystem::path& path, const WhileOpening& opening = {});

// Where the data lie, for `lineage`: "source" and its path, of a mixture "source NAME" of each set.
std::map<std::string, std::string> sources_of(const DatasetOptions& options);
// Of all of them, and of what the options say about what is read, fitted and held back; a tokenizer's file
// is in the fitted values.
std::string fingerprint_of(const DatasetOptions& options);

}  // namespace furrow::data
