#include "furrow/plan/gradient_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

int32_t half_of(int32_t size) {
  return static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(size - 1)));
}

// The begins of the blocks of every replica, then of every rank where ranks take blocks, each ended by k.
std::vector<std::vector<int32_t>> borders_of(const Placement& placement, int32_t k) {
  std::vector<std::vector<int32_t>> borders(placement.reduces_each_microbatch() ? 1 : 2);
  for (int r = 0; r < placement.replicas(); ++r) {
    const Range replica = block_of({0, k}, placement.replicas(), r);
    if (replica.size() == 0) continue;
    borders[0].push_back(replica.begin);
    if (borders.size() == 1) continue;
    for (int s = 0; s < placement.shards(); ++s) {
      const Range rank = block_of(replica, placement.shards(), s);
      if (rank.size() > 0) borders[1].push_back(rank.begin);
    }
  }
  for (std::vector<int32_t>& level : borders) level.push_back(k);
  return borders;
}

}  // namespace

int32_t tree_split(int32_t begin, int32_t end) {
  FURROW_CHECK(begin >= 0 && end - begin >= 2,
               fmt::format("[{},{}) is no inner node of the tree", begin, end));
  return begin + half_of(end - begin);
}

GradientTree::GradientTree(int32_t k) : k_(k) {}

GradientTree::GradientTree(const Placement& placement, int32_t k) : k_(k) {
  if (placement.tree == TreeKind::kByRanks) borders_ = borders_of(placement, k);
}

int32_t GradientTree::split(Range node) const {
  for (const std::vector<int32_t>& level : borders_) {
    const auto first = std::upper_bound(level.begin(), level.end(), node.begin) - 1;
    const auto last = std::lower_bound(level.begin(), level.end(), node.end);
    if (last - first > 1) return first[half_of(static_cast<int32_t>(last - first))];
  }
  return tree_split(node.begin, node.end);
}

std::optional<Range> GradientTree::parent(Range node) const {
  Range at = root();
  if (node.size() < 1 || !at.holds(node)) return std::nullopt;
  while (at != node && at.size() > 1) {
    const int32_t middle = split(at);
    const Range child = node.begin < middle ? Range{at.begin, middle} : Range{middle, at.end};
    if (child == node) return at;
    if (!child.holds(node)) return std::nullopt;
    at = child;
  }
  return std::nullopt;
}

std::vector<Range> GradientTree::cover(Range range) const {
  std::vector<Range> nodes;
  std::vector<Range> open = {root()};
  while (!open.empty()) {
    const Range at = open.back();
    open.pop_back();
    if (at.end <= range.begin || range.end <= at.begin || at.size() < 1) continue;
    if (range.holds(at)) {
      nodes.push_back(at);
      continue;
    }
    const int32_t middle = split(at);
    open.push_back({middle, at.end});
    open.push_back({at.begin, middle});
  }
  return nodes;
}

std::vector<NodeSum> NodeSet::insert(Range node) {
  std::vector<NodeSum> sums;
  for (;;) {
    const std::optional<Range> parent = tree_->parent(node);
    if (!parent) break;
    const int32_t middle = tree_->split(*parent);
    const Range left{parent->begin, middle}, right{middle, parent->end};
    const auto sibling = std::find(nodes_.begin(), nodes_.end(), node == left ? right : left);
    if (sibling == nodes_.end()) break;
    nodes_.erase(sibling);
    sums.push_back({left, right, *parent});
    node = *parent;
  }
  nodes_.insert(std::lower_bound(nodes_.begin(), nodes_.end(), node), node);
  return sums;
}

bool is_aligned(const Placement& placement, int32_t k) {
  const GradientTree tree(k);
  for (int r = 0; r < placement.replicas(); ++r) {
    const Range replica = block_of({0, k}, placement.replicas(), r);
    if (placement.replicas() > 1 && tree.cover(replica).size() > 1) return false;
    if (placement.reduces_each_microbatch()) continue;  // one leaf a rank and round
    for (int s = 0; s < placement.shards(); ++s) {
      if (tree.cover(block_of(replica, placement.shards(), s)).size() > 1) return false;
    }
  }
  return true;
}

}  // namespace furrow::plan
