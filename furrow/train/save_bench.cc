// How long a save behind training holds the training thread: the snapshots and all that comes before the
// thread may go on, beside copies of as many bytes in the same process, in turn.  `memcpy_ms` goes to
// memory that was written before, as saves do, `memcpy_new_ms` to new memory.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/tensor/allocator_torch.h"
#include "furrow/train/median.h"
#include "tests/testing/saving_torch.h"

namespace furrow::train {
namespace {

double seconds_of(const std::function<void()>& work) {
  const int64_t start_ns = system_clock().monotonic_ns();
  work();
  return static_cast<double>(system_clock().monotonic_ns() - start_ns) * 1e-9;
}

// Its time is what the training thread is held.
void BM_SaveBehindTraining(benchmark::State& bench) {
  tensor::install_counting_allocator();  // as a session does: the memory of a save serves the next one
  testing::Saving saving(bench.range(0), 1024);
  const CountedBuffer from(saving.bytes, MemoryKind::kOther), written(saving.bytes, MemoryKind::kOther);
  std::memset(from.data(), 1, from.size());
  std::memset(written.data(), 2, written.size());
  std::vector<double> held, anew, again;
  int64_t step = 0;
  saving.checkpointer->prepare(*saving.model);
  saving.checkpointer->finish();
  for (auto _ : bench) {
    held.push_back(seconds_of([&] { saving.save(++step); }));
    saving.checkpointer->finish();
    anew.push_back(seconds_of([&] {
      const CountedBuffer to(saving.bytes, MemoryKind::kOther);
      std::memcpy(to.data(), from.data(), to.size());
      benchmark::DoNotOptimize(to.data());
    }));
    again.push_back(seconds_of([&] {
      std::memcpy(written.data(), from.data(), written.size());
      benchmark::DoNotOptimize(written.data());
    }));
    bench.SetIterationTime(held.back());
  }
  bench.counters["MiB"] = static_cast<double>(saving.bytes) / (1 << 20);
  bench.counters["first_ms"] = held.front() * 1e3;
  bench.counters["memcpy_new_ms"] = median(anew) * 1e3;
  bench.counters["held_ms"] = median(held) * 1e3;
  bench.counters["memcpy_ms"] = median(again) * 1e3;
  bench.counters["ratio"] = median(held) / median(again);
}
BENCHMARK(BM_SaveBehindTraining)
    ->Arg(2)
    ->Arg(16)
    ->UseManualTime()
    ->Iterations(9)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::train
