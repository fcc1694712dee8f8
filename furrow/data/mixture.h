// One source made of several, each with a share of every epoch; and several one after another.
//
// A mixture is a pure function of (seed, epoch, index): an epoch has exactly `share` samples of each set, the
// keyed permutation of the epoch (order.h) says where they come, and each set goes through its own samples in
// its own keyed order, epoch after epoch, none left out and none twice before all have come.  Nothing is
// stored: the j-th sample of a set in epoch e is at position e * share + j of the set's own order.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "furrow/data/order.h"
#include "furrow/data/source.h"

namespace furrow::data {

// `samples` shared out by weight: largest remainders, the first listed before later ones.
// REQUIRES: every weight above 0.
std::vector<int64_t> shares_of(std::span<const double> weights, int64_t samples);

class MixtureSource : public Source {
 public:
  struct Part {
    std::string name;  // keys the order within the set, so that other sets do not change it
    std::unique_ptr<Source> source;
    int64_t share = 0;  // samples of an epoch
  };

  // Fields and classes are those of the first part.  REQUIRES: at least one part, shares above 0, equal
  // fields and classes.  `shuffle` false: each set in its own order.
  MixtureSource(std::vector<Part> parts, uint64_t seed, bool shuffle);

  int64_t size() const override { return begins_.back(); }
  const std::vector<Field>& fields() const override { return parts_[0].source->fields(); }
  int64_t classes() const override { return parts_[0].source->classes(); }
  void read(std::span<const int64_t> indices,
            std::span<const ArrayView> fields) const override;  // of epoch 0
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override;

 private:
  size_t part_of(int64_t index) const;
  std::vector<Part> parts_;
  std::vector<SampleOrder> orders_;  // within each part
  std::vector<int64_t> begins_;      // of each part among the indices of an epoch; then their number
};

// The samples of several sources, one after another.
class JoinedSource : public Source {
 public:
  // REQUIRES: at least one source, equal fields and classes.
  explicit JoinedSource(std::vector<const Source*> sources);

  int64_t size() const override { return begins_.back(); }
  const std::vector<Field>& fields() const override { return sources_[0]->fields(); }
  int64_t classes() const override { return sources_[0]->classes(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;

 private:
  std::vector<const Source*> sources_;
  std::vector<int64_t> begins_;
};

}  // namespace furrow::data
