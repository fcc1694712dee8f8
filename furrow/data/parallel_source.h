// A source whose rows are read by several threads at once: readers wait for a disk, or decode images, side by
// side.  What comes out is what the source below it gives.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "furrow/data/records.h"
#include "furrow/data/source.h"

namespace furrow::data {

// Threads that take pieces of work.  They sleep when there is none and take no signals.  Work that its caller
// does faster alone than threads wake up, such as small records in the page cache, stays with it: the others
// are woken once a run has taken kWorthWakingNs, or at its start where the run before took as long.  Thread
// safe; one caller at a time is served, another does its work alone.
class ReaderPool {
 public:
  explicit ReaderPool(int readers);  // the caller of run() is one of them; REQUIRES: readers >= 1
  ~ReaderPool();
  ReaderPool(const ReaderPool&) = delete;
  ReaderPool& operator=(const ReaderPool&) = delete;

  static constexpr int64_t kWorthWakingNs = 100'000;

  int readers() const;
  // piece(0) to piece(pieces - 1), each once, in any order; returns when all are done.  Of several exceptions
  // that of the lowest piece is thrown.
  void run(size_t pieces, const std::function<void(size_t)>& piece);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// `work` on so many threads at once, the caller among them; returns when all are done.  The others take no
// signals.  REQUIRES: threads >= 1; work throws nothing.
void run_on_threads(int threads, const std::string& name, const std::function<void()>& work);

// What a source's rows take, which several readers shorten: a processor's work, or waits for a disk.  Rows of
// the second kind that come out of the page cache stay with their reader: others would only take the core of
// the reader of the next batch.
enum class RowCost { kWork, kWaits };

// A batch is cut into pieces that take some time each, as its rows did in the batches before: handing out
// records that lie in the page cache would take longer than to read them.
class ParallelSource : public Source {
 public:
  static constexpr int64_t kLeastPieceNs = 20'000;

  ParallelSource(std::unique_ptr<Source> source, std::shared_ptr<ReaderPool> pool, RowCost cost)
      : source_(std::move(source)), pool_(std::move(pool)), cost_(cost) {}

  int64_t size() const override { return source_->size(); }
  const std::vector<Field>& fields() const override { return source_->fields(); }
  int64_t classes() const override { return source_->classes(); }
  int readers() const override { return pool_->readers(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override {
    read_at(indices, {}, fields);
  }
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override;
  void read_targets(std::span<const int64_t> indices, const ArrayView& targets) const override {
    source_->read_targets(indices, targets);
  }
  std::unique_ptr<Records> records() const override { return source_->records(); }

 private:
  size_t pieces_of(size_t rows) const;
  int64_t timed_read(std::span<const int64_t> indices, std::span<const int64_t> positions,
                     std::span<const ArrayView> fields) const;
  void took(int64_t ns, size_t rows) const;

  static constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
  std::unique_ptr<Source> source_;
  std::shared_ptr<ReaderPool> pool_;
  const RowCost cost_;
  mutable std::atomic<int64_t> row_ns_{kUnknown};  // what a row took lately
};

}  // namespace furrow::data
