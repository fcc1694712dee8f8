// Prefetches microbatches on its own thread into a ring of 64-byte-aligned slots, which the network reads in place.
//
//   Loader loader(source, order, {.sizes = {64}, .position = 0, .prefetch = 4});
//   const Batch& batch = loader.next();      // waits if need be; the slot stays valid until the next call of release()
//   loader.release();                        // gives the oldest slot held back
//
// Thread safety: one consumer.  An exception of the source is rethrown by next(), with the sample positions named.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "furrow/data/batch.h"
#include "furrow/data/order.h"
#include "furrow/data/source.h"

namespace furrow::data {

struct LoaderOptions {
  std::vector<int64_t> sizes;   // microbatch sizes of one step, cycled
  int64_t position = 0;         // first global sample position
  int64_t end = -1;             // stop before this position (-1: endless); the last batch is then the rest
  int prefetch = 4;             // slots besides those held
};

class Loader {
 public:
  Loader(const Source& source, SampleOrder order, LoaderOptions options);
  ~Loader();

  const Batch* next();    // nullptr at `end`
  void release();         // REQUIRES: a batch is held
  int64_t wait_ns() const;  // time that next() spent waiting, in total

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace furrow::data
