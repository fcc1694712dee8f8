// What a call of a block holds at its most: the block run on sizes instead of numbers.  Internal to models.
//
// Tensors are handles of counted memory, freed with the last one; operations keep for backward what those of
// tensor/ keep, and let go of it when theirs has run; gradients are added where autograd adds them.  So the
// peaks are those of the blocks in nn/, whatever is frozen, adapted, recomputed or of 16 bits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace furrow::models {

// Counts what lives: bytes of a sample, and apart from those bytes of any microbatch, such as gradients of
// biases.
class MemoryTape {
 public:
  class Block;
  using Memory = std::shared_ptr<Block>;  // null: none

  // `samples`: of the microbatch whose most is asked for; of a large one, what is fixed hardly counts.
  explicit MemoryTape(int64_t samples) : samples_(samples) {}
  MemoryTape(const MemoryTape&) = delete;
  MemoryTape& operator=(const MemoryTape&) = delete;

  Memory make(int64_t bytes, int64_t fixed = 0);
  int64_t samples() const { return samples_; }
  int64_t live() const { return live_; }
  int64_t live_fixed() const { return live_fixed_; }
  // When all of the microbatch was at its most since the last reset, a sample's and what is fixed.
  int64_t peak() const { return peak_; }
  int64_t peak_fixed() const { return peak_fixed_; }
  void reset_peak() {
    peak_ = live_;
    peak_fixed_ = live_fixed_;
  }
  static int64_t bytes_of(const Memory& memory);  // of a sample
  // How many have been made: memory that there was is of a lower number than what comes.
  int64_t made() const { return made_; }
  static int64_t number_of(const Memory& memory);

  // A tensor of a graph: its memory, and the operation whose output it is, -1: it has no history.
  struct Tensor {
    Memory memory;
    int node = -1;
    bool needs_gradient() const { return node >= 0; }
  };
  using Backward = std::function<std::vector<Memory>(const Memory& gradient)>;

  // Of what comes from outside; its gradient is what backward() returns.
  Tensor leaf(Memory memory);
  // The output of an operation.  `trains`: it reads a parameter that asks for a gradient.
  Tensor record(Memory output, const std::vector<Tensor>& inputs, bool trains, Backward backward);
  // From the gradient of `output` to that of the leaf; none where nothing on the way asks for it.
  Memory backward(const Tensor& output, Memory gradient, const Tensor& leaf);

 private:
  struct Node {
    std::vector<int> inputs;
    Backward backward;
  };

  void add(Memory gradient, Memory* sum);

  int64_t all(int64_t bytes, int64_t fixed) const { return bytes * samples_ + fixed; }

  const int64_t samples_;
  int64_t live_ = 0, live_fixed_ = 0, peak_ = 0, peak_fixed_ = 0, made_ = 0;
  std::vector<Node> nodes_;
};

}  // namespace furrow::models
