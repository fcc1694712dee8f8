#include "furrow/comm/wire_counts.h"

namespace furrow::comm {
WireCounts::Row& WireCounts::independent_row(uint64_t channel) {
  Row* last = &first_;
  for (Row* next = last->next; next != nullptr; next = next->next) {
    if (next->channel == channel) return *next;
    last = next;
  }
  others_.push_back(std::make_unique<Row>());
  others_.back()->channel = channel;
  last->next = others_.back().get();
  return *others_.back();
}

void WireCounts::add(uint64_t channel, const WireBytes& bytes) {
  Row& to = row(channel);
  increase(to.sent, bytes.sent);
  increase(to.received, bytes.received);
  increase(to.overhead_sent, bytes.overhead_sent);
  increase(to.overhead_received, bytes.overhead_received);
}

WireBytes WireCounts::all() const {
  WireBytes sum;
  for (const Row* row = &first_; row != nullptr; row = row->next) sum += row->bytes();
  return sum;
}

Crossed WireCounts::of_independent(uint64_t channel) const {
  for (const Row* row = first_.next; row != nullptr; row = row->next) {
    if (row->channel == channel) return row->crossed();
  }
  return {};
}

}  // namespace furrow::comm
