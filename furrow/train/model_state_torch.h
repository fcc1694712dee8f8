// The live state of a model on one rank: flat parameters and optimizer state of every unit, or the rank's
// slices of them, and its blocks.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "furrow/nn/block_torch.h"
#include "furrow/plan/flat_layout.h"
#include "furrow/plan/model_spec.h"
#include "furrow/plan/slices.h"
#include "furrow/plan/state_form.h"
#include "furrow/plan/tensor_cut.h"
#include "furrow/tensor/gradient_sink_torch.h"

namespace furrow::train {

// What a rank keeps of every unit, and where what blocks read lies.
struct Residence {
  std::vector<plan::Slice> params, states;  // by unit; empty: whole ones
  // Zeros; null: memory of our own.
  std::function<at::Tensor(int64_t elements, at::ScalarType type)> make_params = {};
  std::vector<bool> runs = {};  // by unit: it runs here, and has its statistics; empty: all do
  at::Device device =
      at::kCPU;         // of parameters and states; statistics, and what is offloaded, are the host's
  int tensor_rank = 0;  // whose part of the parameters the tensor axis has given it
  std::vector<int32_t> buckets = {};  // plan::Placement::buckets
};

struct UnitState {
  // Flat, float32: the resident elements, of a unit with masters those that are trained; undefined when there
  // are none.
  at::Tensor params;
  std::vector<at::Tensor>
      states;  // one per state of the optimizer, in its order and form (plan/state_form.h)
  // Flat, whole on every rank that runs the unit, with their average where there is one (plan/flat_layout.h).
  at::Tensor statistics = {};
  // What blocks read where that is not `params` itself: of the unit's type, rounded from it by every step,
  // frozen elements for good.
  at::Tensor compute = {};
  const at::Tensor& read() const { return compute.defined() ? compute : params; }
};

// A logical tensor as exports name it, and where it lies now.
struct NamedTensor {
  std::string name;  // "conv1.weight"; states are "optimizer.<state>/conv1.weight"
  at::Tensor view;   // into the flat buffer, with the parameter's shape
};

// A run of elements of a logical tensor, or of the rank's part of it, in row-major order: as checkpoints of
// slices name it.  Of float32, or of what the form of a state says.
struct NamedRange {
  std::string name;
  Shape shape;          // of the rank's part
  int64_t begin = 0;    // its first element here, in the part
  at::Tensor elements;  // one-dimensional view into the flat buffer
  const plan::Parameter* parameter = nullptr;
  plan::TensorPlace place = {};  // what the part is of the tensor
};

class ModelState {
 public:
  // Parameters are initialised from `seed`, the same bits in whole buffers and in slices; states (none:
  // inference only) are zeros, an average of the weights is the weights.
  ModelState(plan::ModelSpec spec, std::vector<plan::StateSpec> states, uint64_t seed,
             std::span<const nn::BlockKind> extra_kinds = {}, Residence residence = {});

  const plan::ModelSpec& spec() const { return spec_; }
  const plan::FlatLayout& flat() const { return flat_; }
  const nn::Block& block(int unit) const { return *blocks_[unit]; }
  UnitState& unit(int index) { return units_[index]; }
  const UnitState& unit(int index) const { return units_[index]; }
  const std::vector<plan::StateSpec>& states() const { return states_; }
  const std::vector<plan::Slice>& params_slices() const {
    return params_slices_;
  }  // of UnitState::params, by unit
  const std::vector<plan::Slice>& read_slices() const { return residence_.params; }  // of UnitState::read()
  const std::vector<plan::Slice>& states_slices() const { return residence_.states; }
  std::vector<plan::Slice> whole_slices() const;

  // Indexed as Unit::parameters; tied ones are views of their owner's buffer.  Views see every later step.
  std::span<const tensor::Param> params(int unit) const { return params_[unit]; }
  const std::vector<bool>& frozen(int unit) const { return frozen_[unit]; }  // by parameter; or borrowed
  bool trains(int unit) const;  // some parameter of the unit, its own or tied, is not frozen

  // What of a unit's state belongs to elements of its flat buffer that are resident.
  at::Tensor state_part(int unit, size_t state, const plan::Slice& elements) const;

  // The average of the weights and of the statistics, where there is one, is what they are now.
  void start_average();
  int average() const;  // which state it is; -1: none

  // Where a unit's parameters are not resident as a whole, its views (and those that graphs have kept) look
  // at `gathered` from now on: UnitLayout::elements of the unit's type, which the caller keeps alive while
  // they are read.
  bool is_whole(int unit) const { return !windows_[unit].defined(); }
  void point_at(int unit, void* gathered);  // REQUIRES: !is_whole(unit)

  // Memory for gathered parameters that the executors of this model share, as they run one at a time: the
  // `ordinal`-th buffer of `bytes`, from `make` when it is asked for first.
  at::Tensor gathered_buffer(int64_t bytes, int ordinal, const std::function<at::Tensor()>& make);

  // The values that these elements of a parameter had at first.
  void initialise(const NamedRange& range) const;

  // What a unit owns, from its whole flat buffers on each rank of the tensor axis: parameters, then
  // statistics, which the first one has.
  std::vector<NamedTensor> tensors_of(int unit, std::span<const UnitState> parts) const;

  // The elements of `wanted` in buffers that hold `held` of each unit: the live ones hold params_slices()
  // and states_slices(), snapshots what they were made of.
  std::vector<NamedRange> parameter_ranges(std::span<const UnitState> units,
                                           std::span<const plan::Slice> held,
                                           std::span<const plan::Slice> wanted) const;
  std::vector<NamedRange> state_ranges(std::span<const UnitState> units, std::span<const plan::Slice> held,
                                       std::span<const plan::Slice> wanted) const;
  std::vector<NamedRange> statistic_ranges(
      std::span<const UnitState> units) const;  // of those that have some
  // The average of the statistics, where it is kept: "optimizer.ema/bn1.running_mean".
  std::vector<NamedRange> averaged_statistic_ranges(std::span<const UnitState> units) const;
  // Parameters and statistics of `units`, which hold what is resident.
  std::vector<NamedRange> model_ranges(std::span<const UnitState> units) const;
  std::span<const UnitState> units() const { return units_; }

  // What blocks read becomes the rounded `params` of these units, where the two are not one.  Of trained
  // elements without resident masters `read` gives the values: it fills the elements of a range.  The same of
  // frozen ones, which have no masters.
  using ReadRange = std::function<void(const NamedRange& range)>;
  void round_trained(std::span<const UnitState> units, const ReadRange& read) const;
  void round_frozen(std::span<const UnitState> units, const ReadRange& read) const;

  // These elements of a unit's parameters as float32: a view of the live ones, or a copy where some have no
  // float32.  REQUIRES: they are resident.
  at::Tensor values(int unit, const plan::Slice& elements) const;

  // Copies of a part of a unit's flat buffers, statistics only where asked for.  With `alias` views of the
  // live buffers where they are float32.  REQUIRES: it is resident.
  struct Taking {
    plan::Slice part;
    bool statistics = false, alias = false;
  };
  UnitState snapshot(int unit, const Taking& taking) const;
  std::vector<int64_t> snapshot_bytes(int unit, const Taking& taking) const;  // of each copy that it takes
  std::vector<UnitState> snapshot_parameters() const;  // copies, by unit, with statistics, without states
  void snapshot_parameters(std::span<UnitState> copies) const;  // ... into what that made before
  void load_snapshot(std::span<const UnitState> parameters);

 private:
  // Of what a snapshot takes.
  struct Piece {
    enum class What : uint8_t { kStatistics, kParams, kState };
    What what = What::kParams;
    at::Tensor view;  // of the live buffer; undefined: its float32 is still to be made
    int64_t bytes = 0;
    bool copied = true;
  };
  std::vector<Piece> pieces_of(int unit, const Taking& taking) const;

  // The elements of a statistic, one-dimensional, in its own type; `from` is where the statistics begin.
  static at::Tensor statistic_view(const at::Tensor& flat, const plan::StatisticSpan& span,
                                   const plan::Statistic& statistic, int64_t from = 0);
  struct HeldStates {
    std::span<const at::Tensor> states;  // of a unit
    plan::Slice held, wanted;            // elements of its flat buffer
  };
  void add_state_ranges(size_t state, size_t unit, const HeldStates& from,
                        std::vector<NamedRange>* ranges) const;
  at::Tensor make_params(int64_t elements, at::ScalarType type) const;
  std::vector<at::Tensor> make_params()
      const;  // by unit, what blocks read; undefined where nothing is resident
  void make_buffers();
  void round_elements(const UnitState& from, int unit, const plan::Slice& elements,
                      const ReadRange& read) const;
  void make_views();
  std::vector<NamedRange> statistic_ranges_at(std::span<const UnitState> units, bool average) const;
  NamedTensor whole_tensor(int unit, const plan::FlatSpan& span, std::span<const UnitState> parts) const;

  plan::ModelSpec spec_;
  plan::FlatLayout flat_;
  std::vector<plan::StateSpec> states_;
  uint64_t seed_;
  Residence residence_;  // its slices filled in
  std::vector<plan::Slice> params_slices_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  std::vector<UnitState> units_;
  std::vector<at::Tensor> windows_;  // by unit: a whole buffer's shape over memory of somebody else
  std::vector<std::vector<tensor::Param>> params_;
  std::vector<std::vector<bool>> frozen_;
  std::map<std::pair<int64_t, int>, at::Tensor> gathered_;
};

}  // namespace furrow::train
