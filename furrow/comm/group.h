// The ranks of one axis, and what they do together.
//
//   Group shard = communicator.group({0, 1}, {.name = "dp_shard"});
//   Work work = shard.start({.kind = CollectiveKind::kReduceScatter, .in = grads, .out = mine, .label =
//   "h.3"});
//   ...                                                      // the spans live until the work is done
//   work.wait();                                             // throws what went wrong, on every rank
//
// Work starts in the order of the calls, one after the other, on the communicator's thread.  All ranks of a
// group make the same calls in the same order, and two ranks that share several groups start their common
// work in one order: a rank runs one operation at a time, as with any blocking collectives.  A mismatch
// (kind, dtype, reduction, counts, root, label) is an Error{failed_precondition} on every rank that names
// both; an error of any rank ends the pending work of all.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/comm/backend.h"
#include "furrow/comm/collective.h"

namespace furrow::comm {

template <class T>
inline constexpr DType dtype_of = DType::kBool;  // specialised below; no other T
template <>
inline constexpr DType dtype_of<double> = DType::kF64;
template <>
inline constexpr DType dtype_of<float> = DType::kF32;
template <>
inline constexpr DType dtype_of<int64_t> = DType::kI64;
template <>
inline constexpr DType dtype_of<int32_t> = DType::kI32;
template <>
inline constexpr DType dtype_of<uint8_t> = DType::kU8;
template <class T>
concept Element = dtype_of<T> != DType::kBool;

// A cheap handle; copies are the same group.  Thread safe.  The communicator outlives its use.
class Group {
 public:
  struct State;
  Group() = default;  // of no rank
  explicit Group(std::shared_ptr<State> state) : state_(std::move(state)) {}

  int rank() const;  // own, in the group
  int size() const;
  const std::vector<int>& members() const;  // ranks of the world
  std::string_view name() const;

  const std::shared_ptr<State>& state() const { return state_; }

  // Queued; the spans live until it is done.  Errors of the arguments are thrown here, all others by wait().
  Work start(Collective c);
  // One Work for several, run back to back.  A send among them completes at the end of the list, so that
  // {send, recv} on both sides is an exchange.  A reduce_scatter and right after it the all_gather of what it
  // made, with the same counts, may be one pass over memory: every rank of the group gives both in one list.
  Work start(std::vector<Collective> coalesced);
  // Done on return, in the calling thread when nothing is queued.
  void run(const Collective& c);

  template <Element T>
  void all_reduce(std::span<T> data, Reduction reduction = Reduction::kSum, std::string label = {}) {
    const auto bytes = std::as_writable_bytes(data);
    run(make(CollectiveKind::kAllReduce, dtype_of<T>, bytes, bytes, reduction, -1, std::move(label)));
  }
  template <Element T>
  void reduce_scatter(std::span<const T> in, std::span<T> out, Reduction reduction = Reduction::kSum,
                      std::vector<int64_t> counts = {}, std::string label = {}) {
    Collective c = make(CollectiveKind::kReduceScatter, dtype_of<T>, std::as_bytes(in),
                        std::as_writable_bytes(out), reduction, -1, std::move(label));
    c.counts = std::move(counts);
    run(c);
  }
  template <Element T>
  void all_gather(std::span<const T> in, std::span<T> out, std::vector<int64_t> counts = {},
                  std::string label = {}) {
    Collective c = make(CollectiveKind::kAllGather, dtype_of<T>, std::as_bytes(in),
                        std::as_writable_bytes(out), Reduction::kSum, -1, std::move(label));
    c.counts = std::move(counts);
    run(c);
  }
  template <Element T>
  void broadcast(std::span<T> data, int root, std::string label = {}) {
    const auto bytes = std::as_writable_bytes(data);
    run(make(CollectiveKind::kBroadcast, dtype_of<T>, bytes, bytes, Reduction::kSum, root, std::move(label)));
  }
  template <Element T>
  void reduce(std::span<const T> in, std::span<T> out, int root, Reduction reduction = Reduction::kSum,
              std::string label = {}) {
    run(make(CollectiveKind::kReduce, dtype_of<T>, std::as_bytes(in), std::as_writable_bytes(out), reduction,
             root, std::move(label)));
  }
  template <Element T>
  void all_to_all(std::span<const T> in, std::span<T> out, std::vector<int64_t> send_counts = {},
                  std::vector<int64_t> recv_counts = {}, std::string label = {}) {
    Collective c = make(CollectiveKind::kAllToAll, dtype_of<T>, std::as_bytes(in),
                        std::as_writable_bytes(out), Reduction::kSum, -1, std::move(label));
    c.send_counts = std::move(send_counts);
    c.recv_counts = std::move(recv_counts);
    run(c);
  }
  template <Element T>
  void send(std::span<const T> data, int peer, std::string label = {}) {
    run(make(CollectiveKind::kSend, dtype_of<T>, std::as_bytes(data), {}, Reduction::kSum, peer,
             std::move(label)));
  }
  template <Element T>
  void recv(std::span<T> data, int peer, std::string label = {}) {
    run(make(CollectiveKind::kRecv, dtype_of<T>, {}, std::as_writable_bytes(data), Reduction::kSum, peer,
             std::move(label)));
  }
  void barrier(std::string label = {});

 private:
  static Collective make(CollectiveKind kind, DType dtype, std::span<const std::byte> in,
                         std::span<std::byte> out, Reduction reduction, int root_or_peer, std::string label);
  std::shared_ptr<State> state_;
};

}  // namespace furrow::comm
