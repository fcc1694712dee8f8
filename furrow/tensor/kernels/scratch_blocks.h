// How much working memory (scratch.h) kernels hold before they run.
#pragma once

#include <cstddef>

namespace furrow::tensor::kernels {

// The first block of a thread.  Sized for the kernels of convolutions, products and recurrences of common
// shapes together; of what is never touched the machine gives no memory.  A kernel that needs more takes
// more.
inline constexpr size_t kScratchBlockBytes = size_t{4} << 20;

// At least so many first blocks exist from now on, whichever threads take them: what kernels of `threads`
// threads will use is held before the first of them runs.  Thread safe.
void reserve_scratch(int threads);

}  // namespace furrow::tensor::kernels
