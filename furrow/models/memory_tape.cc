#include "furrow/models/memory_tape.h"

#include <algorithm>
#include <utility>

namespace furrow::models {

class MemoryTape::Block {
 public:
  Block(int64_t bytes, int64_t fixed, MemoryTape* tape)
      : bytes_(bytes), fixed_(fixed), number_(tape->made_++), tape_(*tape) {
    tape_.live_ += bytes_;
    tape_.live_fixed_ += fixed_;
    if (tape_.all(tape_.live_, tape_.live_fixed_) > tape_.all(tape_.peak_, tape_.peak_fixed_))
      tape_.reset_peak();
  }
  ~Block() {
    tape_.live_ -= bytes_;
    tape_.live_fixed_ -= fixed_;
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  int64_t bytes() const { return bytes_; }
  int64_t number() const { return number_; }

 private:
  int64_t bytes_, fixed_, number_;
  MemoryTape& tape_;
};

MemoryTape::Memory MemoryTape::make(int64_t bytes, int64_t fixed) {
  return std::make_shared<Block>(bytes, fixed, this);
}

int64_t MemoryTape::bytes_of(const Memory& memory) { return memory->bytes(); }
int64_t MemoryTape::number_of(const Memory& memory) { return memory->number(); }

MemoryTape::Tensor MemoryTape::leaf(Memory memory) {
  nodes_.emplace_back();
  return {std::move(memory), static_cast<int>(nodes_.size()) - 1};
}

MemoryTape::Tensor MemoryTape::record(Memory output, const std::vector<Tensor>& inputs, bool trains,
                                      Backward backward) {
  const bool needed = trains || std::ranges::any_of(inputs, &Tensor::needs_gradient);
  if (!needed) return {std::move(output), -1};
  Node node{{}, std::move(backward)};
  for (const Tensor& input : inputs) node.inputs.push_back(input.node);
  nodes_.push_back(std::move(node));
  return {std::move(output), static_cast<int>(nodes_.size()) - 1};
}

// In place where nobody else holds the sum so far.
void MemoryTape::add(Memory gradient, Memory* sum) {
  if (*sum == nullptr) {
    *sum = std::move(gradient);
  } else if (sum->use_count() > 1) {
    *sum = make((*sum)->bytes());
  }
}

// Operations run from the last to the first, as autograd takes the youngest that is ready.
MemoryTape::Memory MemoryTape::backward(const Tensor& output, Memory gradient, const Tensor& leaf) {
  std::vector<Memory> gradients(nodes_.size());
  if (output.needs_gradient()) gradients[static_cast<size_t>(output.node)] = std::move(gradient);
  for (size_t n = nodes_.size(); n-- > 0;) {
    if (gradients[n] == nullptr || nodes_[n].backward == nullptr) continue;
    std::vector<Memory> results;
    {
      const Backward run = std::exchange(nodes_[n].backward, nullptr);
      const Memory given = std::exchange(gradients[n], nullptr);
      results = run(given);
    }
    for (size_t i = 0; i < results.size(); ++i) {
      const int input = nodes_[n].inputs[i];
      Memory result = std::exchange(results[i], nullptr);
      if (input >= 0 && result != nullptr) add(std::move(result), &gradients[static_cast<size_t>(input)]);
    }
  }
  return leaf.needs_gradient() ? gradients[static_cast<size_t>(leaf.node)] : nullptr;
}

}  // namespace furrow::models
