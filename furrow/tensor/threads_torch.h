// Thread counts of the libraries behind libtorch, for one thread of ours.
#pragma once

namespace furrow::tensor {

// Operations that the calling thread starts from now on use `threads` OpenMP and MKL threads.  Other threads
// keep theirs: at::set_num_threads, which is global to the process, is not touched.  Error{invalid_argument}
// below 1.
void set_thread_count(int threads);

// What libtorch would use for an operation started by the calling thread.
int thread_count();

}  // namespace furrow::tensor
