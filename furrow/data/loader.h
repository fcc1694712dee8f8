// Prefetches microbatches on threads of its own into slots of 64-byte-aligned memory, which the network reads
// in place.
//
//   Loader loader(source, order, {.sizes = {64}, .position = 0, .prefetch = 4});
//   const Batch* batch = loader.next();      // waits if need be; nullptr at the end
//   ...                                      // its slot stays as it is until release()
//   loader.release();                        // gives back the oldest batch held
//
// What comes out is a pure function of (source, order, share, position): neither `prefetch` nor timing
// changes a bit. Batch k covers the positions of the share's microbatch k (data/positions.h): a rank reads
// its own microbatches of every step and no others.  A consumer may hold any number of batches (all
// microbatches of a step); `prefetch` more are kept ready, so memory is held + prefetch slots, reused for
// ever.
//
// There are as many threads as the source has readers, up to `prefetch`, but where a batch has samples for
// all readers no more than cores without the consumer's; each reads a batch of its own.  They sleep on a
// condition variable while `prefetch` batches are ready: they never spin.  They take no signals.  A consumer
// that would wait reads the next batch itself, while there are fewer threads than cores, or but one: nobody
// then waits for a thread to wake up.
//
// Thread safety: one consumer.  An exception of the source is kept in its place: next() returns every batch
// before it, then throws it (and again on every later call), with the sample positions named. The destructor
// waits for at most one Source::read of each thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "furrow/data/batch.h"
#include "furrow/data/order.h"
#include "furrow/data/source.h"

namespace furrow::data {

struct LoaderOptions {
  std::vector<int64_t> sizes;         // microbatch sizes of one step, cycled; each > 0
  std::vector<int64_t> offsets = {};  // of each within the step; empty: one after another
  int64_t stride = 0;                 // samples of a step over all ranks; 0: those of `sizes`
  int64_t position = 0;               // first global sample position: where a step begins
  int64_t end = -1;  // stop before this position (-1: endless); the last batch is then the rest
  int prefetch = 4;  // batches kept ready besides those held; 0: next() reads in the caller's thread
  // Bytes for slots: `prefetch` is lowered until those of a step and those ahead fit; 0: no limit.
  // Error{invalid_argument} when the microbatches of one step do not.
  uint64_t memory_budget = 0;
};

class Loader {
 public:
  // `source` must outlive the loader.  REQUIRES: order.size() <= source.size().
  Loader(const Source& source, SampleOrder order, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  const Batch* next();      // nullptr at `end`
  void release();           // REQUIRES: a batch is held
  int64_t wait_ns() const;  // time that next() spent waiting for data or reading it, in total

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace furrow::data
