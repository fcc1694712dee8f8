// Recursive halving and doubling: log2 exchanges with partners 1, 2, 4, ... places away. Nearest partners add
// first, the lower rank's term on the left: the canonical tree.  Ranks stand at as many places as the largest
// power of two among them; where there are more, the first places hold two ranks each: the upper one gives
// all it has to the lower one and gets the result from it, which moves its whole buffer once more each way.
// Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005.
#include <algorithm>
#include <bit>

#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

constexpr Step kToLower = 0, kToUpper = 1, kBetweenPlaces = 2;

class Places {
 public:
  explicit Places(const Call& call)
      : count_(static_cast<int>(std::bit_floor(static_cast<unsigned>(call.size())))),
        pairs_(call.size() - count_),
        rank_(call.rank()) {}
  int count() const { return count_; }
  int self() const { return in_pair() ? rank_ / 2 : rank_ - pairs_; }
  int lower(int place) const { return place + std::min(place, pairs_); }  // its first rank
  bool is_upper() const { return in_pair() && rank_ % 2 == 1; }
  bool has_upper() const { return in_pair() && rank_ % 2 == 0; }

 private:
  bool in_pair() const { return rank_ < 2 * pairs_; }
  int count_, pairs_, rank_;
};

// Of a buffer cut into as many parts as there are places, each lower rank ends with the sum of one part.
class Halving {
 public:
  Halving(Call& call, const Places& places, std::span<std::byte> data, std::vector<size_t> cuts)
      : call_(call), places_(places), data_(data), cuts_(std::move(cuts)), kept_({{0, places.count()}}) {}

  // Keeps the first half of what is left where it is the lower one of the two: in the end part
  // reversed(self) of the buffer.
  void reduce() {
    for (int distance = 1; distance < places_.count(); distance *= 2, ++step_) {
      const auto [begin, end] = kept_.back();
      const int middle = (begin + end) / 2;
      const bool low = (places_.self() & distance) == 0;
      kept_.push_back(low ? Range{begin, middle} : Range{middle, end});
      add(places_.lower(places_.self() ^ distance), low, low ? Range{middle, end} : Range{begin, middle});
    }
    finish(call_.reduce_kind(), call_.elements(own().size()), own().data());
  }

  // The way back, with results.
  void gather() {
    for (int distance = places_.count() / 2; distance >= 1; distance /= 2, ++step_) {
      const Range mine = kept_.back();
      kept_.pop_back();
      const auto [begin, end] = kept_.back();
      const Range theirs = mine.begin == begin ? Range{mine.end, end} : Range{begin, mine.begin};
      const int partner = places_.lower(places_.self() ^ distance);
      call_.exchange(partner, bytes_of(mine), partner, bytes_of(theirs), step_);
    }
  }

  std::span<std::byte> own() const { return bytes_of(kept_.back()); }

 private:
  struct Range {  // of parts
    int begin, end;
  };
  std::span<std::byte> bytes_of(const Range& parts) const {
    const size_t begin = cuts_[static_cast<size_t>(parts.begin)];
    return data_.subspan(begin, cuts_[static_cast<size_t>(parts.end)] - begin);
  }
  void add(int partner, bool low, const Range& given) {
    const std::span<std::byte> mine = own();
    const Ticket sent = call_.send(partner, step_, bytes_of(given));
    Call::Incoming incoming = call_.expect(partner, step_, mine.size());
    call_.open(incoming);
    combine(call_.reduce_kind(), call_.elements(mine.size()), low ? mine.data() : incoming.bytes.data(),
            low ? incoming.bytes.data() : mine.data(), mine.data());
    call_.close(incoming);
    call_.wait(sent);
  }

  Call& call_;
  const Places& places_;
  std::span<std::byte> data_;
  std::vector<size_t> cuts_;
  std::vector<Range> kept_;
  Step step_ = kBetweenPlaces;
};

// The upper rank of a pair: all that it has for all that it shall have.
void leave_to_lower(Call& call) {
  call.wait(call.send(call.rank() - 1, kToLower, call.c.in));
  call.receive(call.rank() - 1, kToUpper, call.c.out);
}

void all_reduce(Call& call, const Places& places) {
  const std::span<std::byte> out = call.c.out;
  copy(call.c.in, out);
  if (places.has_upper()) {
    Call::Incoming incoming = call.expect(call.rank() + 1, kToLower, out.size());
    call.open(incoming);
    combine(call.reduce_kind(), call.elements(out.size()), out.data(), incoming.bytes.data(), out.data());
    call.close(incoming);
  }
  std::vector<size_t> cuts;
  for (int i = 0; i < places.count(); ++i) cuts.push_back(Call::share(out.size(), i, places.count()).begin);
  cuts.push_back(out.size());
  Halving halving(call, places, out, std::move(cuts));
  halving.reduce();
  halving.gather();
  if (places.has_upper()) call.wait(call.send(call.rank() + 1, kToUpper, out));
}

// The slices of the ranks of `count` places.
Call::Slice block(const Call& call, const Places& places, int place, int count = 1) {
  const size_t begin = call.slice(places.lower(place)).begin;
  const int end = places.lower(place + count);
  const Call::Slice last = call.slice(end - 1);
  return {begin, last.begin + last.bytes - begin};
}

int reversed(int place, int count) {
  int result = 0;
  for (int bit = 1; bit < count; bit *= 2) result = 2 * result + ((place & bit) != 0 ? 1 : 0);
  return result;
}

void reduce_scatter(Call& call, const Places& places) {
  const std::span<const std::byte> in = call.c.in;
  const std::span<std::byte> data = call.take(in.size());
  Call::Incoming incoming;
  if (places.has_upper()) {
    incoming = call.expect(call.rank() + 1, kToLower, in.size());
    call.open(incoming);
  }
  std::vector<size_t> cuts = {0};  // of data: a halving leaves a place the part of its number reversed
  for (int i = 0; i < places.count(); ++i) {
    const Call::Slice part = block(call, places, reversed(i, places.count()));
    std::byte* const to = data.data() + cuts.back();
    cuts.push_back(cuts.back() + part.bytes);
    if (places.has_upper()) {
      combine(call.reduce_kind(), call.elements(part.bytes), in.data() + part.begin,
              incoming.bytes.data() + part.begin, to);
    } else {
      copy(in.subspan(part.begin, part.bytes), {to, part.bytes});
    }
  }
  if (places.has_upper()) call.close(incoming);
  Halving halving(call, places, data, std::move(cuts));
  halving.reduce();
  copy(halving.own().first(call.c.out.size()), call.c.out);
  if (places.has_upper())
    call.wait(call.send(call.rank() + 1, kToUpper, halving.own().subspan(call.c.out.size())));
}

void all_gather(Call& call, const Places& places) {
  const std::span<std::byte> out = call.c.out;
  const auto slice = [&](int rank) { return out.subspan(call.slice(rank).begin, call.slice(rank).bytes); };
  copy(call.c.in, slice(call.rank()));
  if (places.has_upper()) call.receive(call.rank() + 1, kToLower, slice(call.rank() + 1));
  Step step = kBetweenPlaces;
  for (int distance = 1; distance < places.count(); distance *= 2, ++step) {
    const int partner = places.self() ^ distance;
    const auto held_at = [&](int place) {
      const Call::Slice held = block(call, places, place / distance * distance, distance);
      return out.subspan(held.begin, held.bytes);
    };
    call.exchange(places.lower(partner), held_at(places.self()), places.lower(partner), held_at(partner),
                  step);
  }
  if (places.has_upper()) call.wait(call.send(call.rank() + 1, kToUpper, out));
}

}  // namespace

// Ones and then zeros in binary: the pairs then stand where the tree of all ranks has them.
bool doubling_is_canonical(const Call& call) {
  const auto ranks = static_cast<unsigned>(call.size());
  return std::has_single_bit(ranks + (ranks & (~ranks + 1)));
}

void run_doubling(Call& call) {
  const Places places(call);
  if (places.is_upper()) return leave_to_lower(call);
  switch (call.c.kind) {
    case CollectiveKind::kReduceScatter:
      return reduce_scatter(call, places);
    case CollectiveKind::kAllGather:
      return all_gather(call, places);
    default:
      return all_reduce(call, places);
  }
}

}  // namespace furrow::comm
