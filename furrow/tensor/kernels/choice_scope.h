// A thread's choice in place of the machine's: how a test reaches what runs on other processors.
#pragma once

#include <utility>

namespace furrow::tensor::kernels {

// While it lives, what or_else() says to this thread; scopes nest.  A Tag for each thing that is chosen.
template <class T, class Tag>
class ChoiceScope {
 public:
  explicit ChoiceScope(T choice) : before_(std::exchange(innermost_, &choice_)), choice_(choice) {}
  ~ChoiceScope() { innermost_ = before_; }
  ChoiceScope(const ChoiceScope&) = delete;
  ChoiceScope& operator=(const ChoiceScope&) = delete;

  // The innermost choice, without any `here`.
  static T or_else(T here) { return innermost_ != nullptr ? *innermost_ : here; }

 private:
  static inline constinit thread_local const T* innermost_ = nullptr;
  const T* before_;
  T choice_;
};

}  // namespace furrow::tensor::kernels
