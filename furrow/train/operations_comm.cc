// What each communication instruction starts, and what is left to do when it has arrived.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/memory.h"
#include "furrow/tensor/composition_torch.h"
#include "furrow/tensor/dtype_torch.h"
#include "furrow/train/executor_state_torch.h"

namespace furrow::train {
namespace {

using comm::Collective;
using comm::CollectiveKind;
using plan::Range;
using plan::ValueKind;
using tensor::Numbers;

std::span<std::byte> bytes_of(const Numbers& numbers) {
  return {numbers.data, static_cast<size_t>(numbers.bytes())};
}

Collective collective(CollectiveKind kind, const Numbers& in, const Numbers& out,
                      const BoundInstruction& bound) {
  Collective c;
  c.kind = kind;
  c.dtype = in.type;
  c.in = bytes_of(in);
  c.out = bytes_of(out);
  c.counts = bound.counts;
  c.label = bound.label;
  return c;
}

Collective message(CollectiveKind kind, const Numbers& data, size_t peer, const BoundInstruction& bound) {
  const bool sends = kind == CollectiveKind::kSend;
  const Numbers none(data.type, nullptr, 0);
  Collective c = collective(kind, sends ? data : none, sends ? none : data, bound);
  c.counts.clear();
  c.root_or_peer = static_cast<int>(peer);
  return c;
}

// One exchange of partial sums where more than one node a rank travels: slices of nodes go to their owners,
// which add them along the tree.
class NodeExchange {
 public:
  NodeExchange(ExecutorState& state, const BoundInstruction& bound)
      : state_(state), bound_(bound), exchange_(*bound.exchange), own_(bound.member_slices[exchange_.self]) {}

  std::vector<Collective> messages() {
    std::vector<Collective> batch;
    for (size_t member = 0; member < exchange_.nodes.size(); ++member) {
      const plan::Slice& slice = bound_.member_slices[member];
      if (member == exchange_.self || slice.size() == 0) continue;
      for (const FlatOperand& node : bound_.gradient_reads)
        batch.push_back(message(CollectiveKind::kSend, part(node, slice), member, bound_));
    }
    if (own_.size() == 0) return batch;
    make_staging();
    for (const Received& received : received_)
      batch.push_back(message(CollectiveKind::kRecv, received.data, received.member, bound_));
    return batch;
  }

  void finish() {
    if (own_.size() == 0) return;
    for (size_t i = 0; i < bound_.gradient_reads.size(); ++i) {
      const plan::Value& value = bound_.instruction->reads[i];
      at_hand_.push_back({{value.begin, value.end}, part(bound_.gradient_reads[i], own_), false});
    }
    for (const Received& received : received_) at_hand_.push_back({received.node, received.data, true});
    for (const plan::NodeSum& sum : bound_.sums) add(sum);
    place_results();
    if (staging_.defined()) state_.staging.push_back(std::move(staging_));
  }

 private:
  struct Received {
    size_t member;
    Range node;
    Numbers data;
  };
  struct AtHand {
    Range node;
    Numbers data;
    bool staged;
  };

  // What `slice` of the whole buffer is of a value.
  Numbers part(const FlatOperand& value, const plan::Slice& slice) const {
    return state_.numbers(value).part(slice.begin - value.slice.begin, slice.size());
  }

  void make_staging() {
    size_t count = 0;
    for (size_t member = 0; member < exchange_.nodes.size(); ++member) {
      if (member != exchange_.self) count += exchange_.nodes[member].size();
    }
    if (count == 0) return;
    Numbers next(bound_.gradient_writes.front().type, nullptr, own_.size());
    staging_ = state_.take_staging(static_cast<int64_t>(count) * next.bytes());
    next.data = static_cast<std::byte*>(staging_.data_ptr());
    for (size_t member = 0; member < exchange_.nodes.size(); ++member) {
      if (member == exchange_.self) continue;
      for (const Range& node : exchange_.nodes[member]) {
        received_.push_back({member, node, next});
        next.data += next.bytes();
      }
    }
  }

  // Where a result is written; null for a partial sum on the way.
  std::optional<Numbers> home(const Range& node) const {
    for (size_t i = 0; i < exchange_.result.size(); ++i) {
      const FlatOperand& written = bound_.gradient_writes[i];
      if (exchange_.result[i] == node) return state_.numbers(written);
    }
    return std::nullopt;
  }

  AtHand take(const Range& node) {
    const auto found = std::ranges::find(at_hand_, node, &AtHand::node);
    FURROW_CHECK(found != at_hand_.end(), "a partial sum of gradients did not arrive");
    const AtHand taken = *found;
    at_hand_.erase(found);
    return taken;
  }

  // Whether writing there would lose something that is still needed.
  bool in_use(const Numbers& place) const {
    return std::ranges::any_of(at_hand_, [&](const AtHand& other) {
      return other.data.data < place.data + place.bytes() &&
             place.data < other.data.data + other.data.bytes();
    });
  }

  // A sum goes home at once where it can, else over one of its terms that was received.
  void add(const plan::NodeSum& sum) {
    const AtHand left = take(sum.left), right = take(sum.right);
    FURROW_CHECK(left.staged || right.staged, "two nodes of a rank were not added there");
    const auto to = home(sum.sum);
    const bool direct = to.has_value() && !in_use(*to);
    const Numbers out = direct ? *to : left.staged ? left.data : right.data;
    state_.math->add(left.data, right.data, out);
    at_hand_.push_back({sum.sum, out, !direct});
  }

  // What is not at home yet, in an order that overwrites nothing: a node that stays on its rank may lie where
  // another result belongs.
  void place_results() {
    std::vector<Range> away;
    for (const Range& node : exchange_.result) away.push_back(node);
    while (!away.empty()) {
      const size_t before = away.size();
      std::erase_if(away, [&](const Range& node) {
        const AtHand result = take(node);
        const Numbers to = *home(node);
        if (to.data == result.data.data) return true;
        if (in_use(to)) {
          at_hand_.push_back(result);
          return false;
        }
        state_.math->copy(result.data, to);
        return true;
      });
      FURROW_CHECK(away.size() < before, "results of an exchange stand in each other's way");
    }
  }

  ExecutorState& state_;
  const BoundInstruction& bound_;
  const plan::Exchange& exchange_;
  const plan::Slice own_;
  at::Tensor staging_;
  std::vector<Received> received_;
  std::vector<AtHand> at_hand_;
};

Collective gather_of_grads(ExecutorState& state, const BoundInstruction& bound) {
  return collective(CollectiveKind::kAllGather, state.numbers(bound.gradient_reads[0]),
                    state.numbers(bound.gradient_writes[0]), bound);
}

void reduce_grads(ExecutorState& state, const BoundInstruction& bound) {
  if (bound.exchange == nullptr) return;  // nothing comes of this round yet
  if (bound.exchange->plain) {
    std::vector<Collective> batch = {collective(CollectiveKind::kReduceScatter,
                                                state.numbers(bound.gradient_reads[0]),
                                                state.numbers(bound.gradient_writes[0]), bound)};
    if (bound.gather != nullptr) batch.push_back(gather_of_grads(state, *bound.gather));
    state.start(bound, std::move(batch));
    return;
  }
  auto exchange = std::make_shared<NodeExchange>(state, bound);
  std::vector<Collective> messages = exchange->messages();
  state.start(bound, std::move(messages), [exchange] { exchange->finish(); });
}

void gather_grads(ExecutorState& state, const BoundInstruction& bound) {
  if (!bound.started_before) state.start(bound, {gather_of_grads(state, bound)});
}

// A slice of a unit's parameters, as blocks read them, where they are resident.
std::span<std::byte> resident_params(ExecutorState& state, int unit, const plan::Slice& slice) {
  const at::Tensor& params = state.model.unit(unit).read();
  if (slice.size() == 0 || !params.defined()) return {};
  const auto size = static_cast<int64_t>(params.element_size());
  const int64_t begin = slice.begin - state.model.read_slices()[unit].begin;
  return {static_cast<std::byte*>(params.data_ptr()) + begin * size,
          static_cast<size_t>(slice.size() * size)};
}

Collective gather_of_params(ExecutorState& state, const BoundInstruction& bound,
                            std::span<const std::byte> own, std::span<std::byte> whole) {
  Collective c;
  c.kind = CollectiveKind::kAllGather;
  c.dtype = state.model.flat().units[bound.unit()].compute;
  c.in = own;
  c.out = whole;
  c.counts = bound.counts;
  c.label = bound.label;
  return c;
}

// Of neighbours of a bucket, whose resident parameters lie end to end.
std::span<std::byte> resident_params(ExecutorState& state, std::span<const UnitSlice> slices) {
  std::span<std::byte> all;
  for (const UnitSlice& each : slices) {
    const std::span<std::byte> next = resident_params(state, each.unit, each.slice);
    if (next.empty()) continue;
    FURROW_CHECK(all.empty() || all.data() + all.size() == next.data(),
                 "resident parameters of a bucket do not lie end to end");
    all = {all.empty() ? next.data() : all.data(), all.size() + next.size()};
  }
  return all;
}

void gather_params(ExecutorState& state, const BoundInstruction& bound) {
  const std::span<std::byte> own = resident_params(state, bound.own_params);
  state.start(bound, {gather_of_params(state, bound, own, state.bytes(bound.flat))});
}

void gather_updated(ExecutorState& state, const BoundInstruction& bound) {
  const std::span<std::byte> params = resident_params(state, bound.all_params);
  const std::span<std::byte> own = resident_params(state, bound.own_params);
  state.start(bound, {gather_of_params(state, bound, own, params)});
}

void reduce_scalar(ExecutorState& state, const BoundInstruction& bound) {
  struct Words {
    std::array<int64_t, Sums::kWords> own;
    std::vector<int64_t> all;
  };
  auto words = std::make_shared<Words>();
  state.cell<Sums>(bound.reads(ValueKind::kSums)).write(words->own);
  const auto members = static_cast<size_t>(state.rank.group(bound.instruction->axis).size());
  words->all.resize(members * Sums::kWords);
  Collective c;
  c.kind = CollectiveKind::kAllGather;
  c.dtype = DType::kI64;
  c.in = std::as_bytes(std::span(words->own));
  c.out = std::as_writable_bytes(std::span(words->all));
  c.label = bound.label;
  state.start(bound, {std::move(c)}, [&state, &bound, words, members] {
    Sums total;
    for (size_t r = 0; r < members; ++r) {
      const std::span<const int64_t> all(words->all);
      total.add(Sums::read(all.subspan(r * Sums::kWords).first<Sums::kWords>()));
    }
    state.publish(bound, total);
    state.cells[bound.writes(ValueKind::kSums)] = total;
  });
}

Collective transfer(CollectiveKind kind, const BoundInstruction& bound) {
  Collective c;
  c.kind = kind;
  c.root_or_peer = kind == CollectiveKind::kSend ? 1 : 0;  // a lane's members: who sends, who receives
  c.label = bound.label;
  return c;
}

// Where a flat value that travels lies.
std::span<std::byte> travelling(ExecutorState& state, const BoundInstruction& bound) {
  const bool params = bound.reads(ValueKind::kParams) >= 0;
  return params ? resident_params(state, bound.unit(), bound.flat.slice) : state.bytes(bound.flat);
}

DType travelling_type(const ExecutorState& state, const BoundInstruction& bound) {
  const bool params = bound.reads(ValueKind::kParams) >= 0;
  return params ? state.model.flat().units[bound.unit()].compute : bound.flat.type;
}

bool carries_tensor(const BoundInstruction& bound) { return bound.instruction->microbatch >= 0; }

// A tensor that is sent lives until it has arrived, whatever becomes of its slot.
void send(ExecutorState& state, const BoundInstruction& bound) {
  Collective c = transfer(CollectiveKind::kSend, bound);
  if (!carries_tensor(bound)) {
    c.in = travelling(state, bound);
    c.dtype = travelling_type(state, bound);
    return state.start(bound, {std::move(c)});
  }
  const bool act = bound.reads(ValueKind::kAct) >= 0;
  const at::Tensor tensor =
      state.cell<at::Tensor>(bound.reads(act ? ValueKind::kAct : ValueKind::kGrad)).contiguous();
  c.dtype = tensor::dtype_of(tensor.scalar_type());
  c.in = {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
  state.start(bound, {std::move(c)}, [tensor] {});
}

// The output of a unit, as its spec says, or the gradient with respect to it.
at::Tensor make_received(const ExecutorState& state, const BoundInstruction& bound) {
  const MemoryScope scope(MemoryKind::kActivations);
  const plan::TensorSpec& spec = state.model.spec().units[bound.unit()].output;
  std::vector<int64_t> shape = spec.shape;
  shape[0] = state.program.microbatch_sizes[bound.instruction->microbatch];
  return at::empty(shape, at::TensorOptions().dtype(tensor::scalar_type(spec.dtype)).device(state.device));
}

void recv(ExecutorState& state, const BoundInstruction& bound) {
  Collective c = transfer(CollectiveKind::kRecv, bound);
  if (!carries_tensor(bound)) {
    c.out = travelling(state, bound);
    c.dtype = travelling_type(state, bound);
    return state.start(bound, {std::move(c)});
  }
  const at::Tensor tensor = make_received(state, bound);
  c.dtype = tensor::dtype_of(tensor.scalar_type());
  c.out = {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
  const bool act = bound.writes(ValueKind::kAct) >= 0;
  state.cells[bound.writes(act ? ValueKind::kAct : ValueKind::kGrad)] = tensor;
  state.start(bound, {std::move(c)}, [tensor] {});
}

// A buffer of everybody's statistics, and from there a tensor a unit and microbatch.
void gather_stats(ExecutorState& state, const BoundInstruction& bound) {
  struct Words {
    std::vector<float> own, all;
  };
  auto words = std::make_shared<Words>();
  for (const int slot : bound.statistic_reads) {
    const at::Tensor said = tensor::on_host(state.cell<at::Tensor>(slot));
    words->own.insert(words->own.end(), said.const_data_ptr<float>(),
                      said.const_data_ptr<float>() + said.numel());
  }
  size_t elements = 0;
  for (const int64_t count : bound.counts) elements += static_cast<size_t>(count);
  words->all.resize(elements);
  state.start(bound,
              {collective(CollectiveKind::kAllGather, std::span(words->own), std::span(words->all), bound)},
              [&state, &bound, words] {
                const MemoryScope scope(MemoryKind::kOther);
                const float* from = words->all.data();
                for (const Arrival& arrival : bound.arrivals) {
                  if (arrival.slot >= 0) {
                    at::Tensor said = at::empty({arrival.elements}, at::kFloat);
                    std::copy_n(from, arrival.elements, said.data_ptr<float>());
                    state.cells[arrival.slot] = std::move(said);
                  }
                  from += arrival.elements;
                }
              });
}

constexpr HandlerRow kHandlers[] = {
    {plan::Op::kReduceGrads, &reduce_grads},
    {plan::Op::kGatherGrads, &gather_grads},
    {plan::Op::kGatherParams, &gather_params},
    {plan::Op::kGatherUpdated, &gather_updated},
    {plan::Op::kReduceScalar, &reduce_scalar},
    {plan::Op::kSend, &send},
    {plan::Op::kRecv, &recv},
    {plan::Op::kGatherStats, &gather_stats},
};

}  // namespace

std::span<const HandlerRow> communication_handlers() { return kHandlers; }

}  // namespace furrow::train
