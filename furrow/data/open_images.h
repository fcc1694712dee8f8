// What all kinds of image sets share: splits, fitted values, checks, the test split that stays closed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/data/images.h"
#include "furrow/data/parallel_source.h"

namespace furrow::data {

struct ImageParts {
  std::shared_ptr<const LabelledStore> train;
  // Of a set that has them apart; null: [data] validation_fraction of `train` is held back.
  std::shared_ptr<const LabelledStore> validation = nullptr;
  // Opens the images of the test split; empty: there is none.
  std::function<std::shared_ptr<const LabelledStore>()> test = {};
  std::string test_name = {};  // for messages
  // Reads images side by side, for fitting and for every split; null: one reader.
  std::shared_ptr<ReaderPool> pool = nullptr;
  int64_t classes = 0;                  // as the format says; 0: as the largest training label says
  std::vector<std::string> names = {};  // of the classes; empty: their numbers
};

// Carves, fits (or takes what was fitted earlier) and checks.  Error{invalid_argument}: a label out of range,
// a class that is called otherwise than it was, test images of another shape.
Dataset assemble_images(const DatasetOptions& options, ImageParts parts, const Preprocessing* preprocessing);

// Images for validation among `images`.
int64_t validation_count(const DatasetOptions& options, int64_t images);

// The normaliser, the number of classes and what they are called that an earlier run fitted.
// Error{data_loss}, or {invalid_argument} when it was fitted on something else than images of this shape.
struct FittedImages {
  std::shared_ptr<const preprocess::ImageNormaliser> normaliser;
  int64_t classes;
  std::vector<std::string> names;  // empty: an earlier version fitted them
};
FittedImages load_fitted_images(const Preprocessing& fitted, const Shape& shape);

// Error{invalid_argument} unless the classes of `where` are called as the first of those that were `fitted`.
// Where one of them has no names nothing is compared, which the log says once in a process.
void check_class_names(const std::vector<std::string>& fitted, const std::vector<std::string>& own,
                       const std::string& where);

// The augmenter that [data] asks for, or null.
std::shared_ptr<const preprocess::ImageAugmenter> make_augmenter(const DatasetOptions& options);

}  // namespace furrow::data
