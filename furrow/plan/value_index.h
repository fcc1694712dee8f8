// A dense number for each value of a program, so that passes can keep their notes in vectors.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "furrow/plan/program.h"

namespace furrow::plan {

struct ValueHash {
  size_t operator()(const Value& value) const {
    uint64_t hash = static_cast<uint64_t>(value.kind) | static_cast<uint64_t>(value.part) << 8;
    for (int32_t field : {value.unit, value.index, value.begin, value.end}) {
      hash = (hash ^ static_cast<uint32_t>(field)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

// Numbers values in the order in which they are first asked for.  Never iterated by hash order.
class ValueIndex {
 public:
  int32_t add(const Value& value) {
    auto [it, inserted] = numbers_.try_emplace(value, static_cast<int32_t>(values_.size()));
    if (inserted) values_.push_back(value);
    return it->second;
  }
  int32_t find(const Value& value) const {  // -1: never added
    auto it = numbers_.find(value);
    return it == numbers_.end() ? -1 : it->second;
  }
  const Value& value(int32_t number) const { return values_[number]; }
  int32_t size() const { return static_cast<int32_t>(values_.size()); }
  void reserve(size_t count) {
    numbers_.reserve(count);
    values_.reserve(count);
  }

 private:
  std::unordered_map<Value, int32_t, ValueHash> numbers_;
  std::vector<Value> values_;
};

}  // namespace furrow::plan
