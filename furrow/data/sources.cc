// The one table of data set kinds.
#include <fmt/format.h>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/data/source_kinds.h"

namespace furrow::data {
namespace {

constexpr SourceKind kSourceKinds[] = {
    {"bytes", "text, one token per byte", &open_bytes, &probe_bytes},
    {"chars", "text, one token per character", &open_chars, &probe_chars},
    {"idx", "labelled images in the files of MNIST and Fashion-MNIST", &open_idx, &probe_idx},
};

const SourceKind& kind_of(const DatasetOptions& options) {
  std::vector<std::string> known;
  for (const SourceKind& kind : kSourceKinds) {
    if (kind.name == options.kind) return kind;
    known.emplace_back(kind.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("[training] dataset", options.kind, known));
}

}  // namespace

std::span<const SourceKind> source_kinds() { return kSourceKinds; }

Dataset open_dataset(const DatasetOptions& options, const Preprocessing* preprocessing) {
  return kind_of(options).open(options, preprocessing);
}

DataInfo probe(const DatasetOptions& options) { return kind_of(options).probe(options); }

const Source* find_split(const Dataset& dataset, Split split) {
  switch (split) {
    case Split::kTrain:
      return dataset.train.get();
    case Split::kValidation:
      return dataset.validation.get();
    case Split::kTest:
      return dataset.test.get();
  }
  return nullptr;
}

}  // namespace furrow::data
