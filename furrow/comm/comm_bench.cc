// Collectives over ranks that are threads, the arithmetic alone, and with --ranks real processes for
// bench/comm.py:
//   comm_bench                            google-benchmark
//   comm_bench --ranks N [OP] [plain]     one line of JSON per size (the whole buffer, all slices) of OP:
//                                         all_reduce (in place), reduce_scatter or all_gather of float32 over
//                                         shm, each rank pinned to a core; `plain`: in memory that peers
//                                         cannot see
//   comm_bench --loop [OP]                two threads that write what OP writes from the same arrays, each a
//   half
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/process.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/reduce.h"
#include "tests/testing/child.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

// ---- google-benchmark ----

void reduce(benchmark::State& state, DType dtype) {
  const int64_t n = state.range(0);
  const auto ranks = static_cast<size_t>(state.range(1));
  std::vector<std::vector<std::byte>> in(ranks,
                                         std::vector<std::byte>(static_cast<size_t>(n) * dtype_size(dtype)));
  std::vector<std::byte> out(in[0].size());
  std::vector<const std::byte*> sources;
  for (const auto& x : in) sources.push_back(x.data());
  std::byte* const destinations[] = {out.data()};
  for (auto _ : state) reduce_tree({dtype, Reduction::kSum, 1}, n, sources, destinations);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(in[0].size() * (ranks + 1)));
}
BENCHMARK_CAPTURE(reduce, float32, DType::kF32)->Args({1 << 16, 2})->Args({1 << 16, 8});
BENCHMARK_CAPTURE(reduce, bfloat16, DType::kBF16)->Args({1 << 16, 2});
BENCHMARK_CAPTURE(reduce, float16, DType::kF16)->Args({1 << 16, 2});

// Every rank calls as often; rank 0 is timed.
void all_reduce(benchmark::State& state, const char* transport) {
  const auto ranks = static_cast<int>(state.range(0));
  const auto bytes = static_cast<size_t>(state.range(1));
  testing::run_ranks_with(ranks, {.transport = transport}, [&](Communicator& communicator) {
    Memory memory = communicator.allocate(bytes);
    Group world = communicator.world();
    const auto step = [&] { world.all_reduce(memory.as<float>()); };
    if (communicator.rank() == 0) {
      for (auto _ : state) step();
    } else {
      for (benchmark::IterationCount i = 0; i < state.max_iterations; ++i) step();
    }
  });
  state.SetBytesProcessed(state.iterations() * state.range(1));
}
BENCHMARK_CAPTURE(all_reduce, inproc, "inproc")
    ->Args({2, 64})
    ->Args({2, 1 << 16})
    ->Args({2, 1 << 22})
    ->UseRealTime();
BENCHMARK_CAPTURE(all_reduce, shm, "shm")
    ->Args({2, 64})
    ->Args({2, 1 << 16})
    ->Args({2, 1 << 22})
    ->UseRealTime();

// ---- processes ----

constexpr int64_t kSizes[] = {8, 64, 512, 4096, 16384, 65536, 262144, 1 << 20, 4 << 20, 16 << 20, 64 << 20};

int64_t calls_for(int64_t bytes) { return std::clamp<int64_t>((256LL << 20) / bytes, 8, 3000); }

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(core % core_count()), &set);
  sched_setaffinity(0, sizeof(set), &set);
}

void print_row(int64_t bytes, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  fmt::print("{{\"bytes\": {}, \"p50_us\": {:.3f}, \"p10_us\": {:.3f}}}\n", bytes, us[us.size() / 2],
             us[us.size() / 10]);
  std::fflush(stdout);
}

struct Asked {
  CollectiveKind kind = CollectiveKind::kAllReduce;
  bool plain = false;
};

Asked asked(std::span<const std::string> words) {
  Asked asked;
  for (const std::string& word : words) {
    if (word == "plain") {
      asked.plain = true;
    } else {
      asked.kind = parse_collective_kind(word);
    }
  }
  return asked;
}

// One operation on buffers of its own.
class Operation {
 public:
  Operation(Communicator& communicator, const Asked& asked, int64_t bytes)
      : world_(communicator.world()), kind_(asked.kind) {
    const auto floats = static_cast<size_t>(bytes) / sizeof(float),
               ranks = static_cast<size_t>(world_.size());
    const size_t slice = std::max<size_t>(floats / ranks, 1);
    const auto memory = [&](size_t elements) {
      const size_t size = elements * sizeof(float);
      Memory memory =
          asked.plain ? Memory(plain_block(size), size, MemoryKind::kOther) : communicator.allocate(size);
      std::ranges::fill(memory.as<float>(), 1.0F);  // pages that nobody wrote are all one page of zeros
      return memory;
    };
    whole_ = memory(kind_ == CollectiveKind::kAllReduce ? floats : slice * ranks);
    slice_ = memory(slice);
  }
  void run() {
    const std::span<float> whole = whole_.as<float>(), slice = slice_.as<float>();
    if (kind_ == CollectiveKind::kAllReduce) return world_.all_reduce(whole);
    if (kind_ == CollectiveKind::kReduceScatter) return world_.reduce_scatter<float>(whole, slice);
    world_.all_gather<float>(slice, whole);
  }

 private:
  Group world_;
  CollectiveKind kind_;
  Memory whole_, slice_;
};

void measure(Communicator& communicator, const Asked& asked) {
  Group world = communicator.world();
  for (const int64_t bytes : kSizes) {
    Operation operation(communicator, asked, bytes);
    std::vector<double> us(static_cast<size_t>(calls_for(bytes)));
    for (int i = 0; i < 3; ++i) operation.run();
    for (double& one : us) {
      const int64_t begin_ns = system_clock().monotonic_ns();
      operation.run();
      one = static_cast<double>(system_clock().monotonic_ns() - begin_ns) * 1e-3;
    }
    world.all_reduce(std::span(us), Reduction::kMax);  // a call lasts until the last rank has it
    if (communicator.rank() == 0) print_row(bytes, us);
    world.barrier();
  }
}

int run_processes(int ranks, const Asked& asked) {
  const testing::TemporaryFolder folder;
  for (int r = 0; r < ranks; ++r) {
    if (fork() != 0) continue;
    pin(r);
    try {
      measure(*testing::join_processes(folder.path(), r, ranks), asked);
      _exit(0);
    } catch (const std::exception& error) {
      fmt::print(stderr, "rank {}: {}\n", r, error.what());
      _exit(1);
    }
  }
  int failed = 0, status = 0;
  while (wait(&status) > 0) failed += status != 0 ? 1 : 0;
  return failed == 0 ? 0 : 1;
}

// What two ranks cannot beat, as each of them reads and writes: buffers of both, the second pair for results.
struct Loop {
  explicit Loop(size_t elements)
      : half(elements / 2),
        whole{std::vector<float>(elements, 1.0F), std::vector<float>(elements, 1.0F)},
        slice{std::vector<float>(half, 1.0F), std::vector<float>(half, 1.0F)} {}

  void run(CollectiveKind kind, size_t self) {
    const size_t begin = self * half;
    float* const a = whole[0].data() + begin;
    float* const b = whole[1].data() + begin;
    if (kind == CollectiveKind::kAllReduce) {
      for (size_t i = 0; i < half; ++i) a[i] = b[i] = a[i] + b[i];
    } else if (kind == CollectiveKind::kReduceScatter) {
      float* const out = slice[self].data();
      for (size_t i = 0; i < half; ++i) out[i] = a[i] + b[i];
    } else {
      std::copy(slice[0].begin(), slice[0].end(), whole[self].begin());
      std::copy(slice[1].begin(), slice[1].end(), whole[self].begin() + static_cast<std::ptrdiff_t>(half));
    }
  }

  size_t half;
  std::array<std::vector<float>, 2> whole, slice;
};

int run_loop(const Asked& asked) {
  for (const int64_t bytes : kSizes) {
    Loop loop(static_cast<size_t>(bytes) / sizeof(float));
    std::vector<double> us(static_cast<size_t>(calls_for(bytes)));
    std::barrier both(2);
    const auto body = [&](size_t self) {
      pin(static_cast<int>(self));
      for (double& one : us) {
        both.arrive_and_wait();
        const int64_t begin_ns = system_clock().monotonic_ns();
        loop.run(asked.kind, self);
        both.arrive_and_wait();
        if (self == 0) one = static_cast<double>(system_clock().monotonic_ns() - begin_ns) * 1e-3;
      }
    };
    std::jthread other(body, 1);
    body(0);
    other.join();
    print_row(bytes, us);
  }
  return 0;
}

}  // namespace
}  // namespace furrow::comm

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() >= 2 && words[0] == "--ranks") {
    return furrow::comm::run_processes(std::stoi(words[1]), furrow::comm::asked(std::span(words).subspan(2)));
  }
  if (!words.empty() && words[0] == "--loop")
    return furrow::comm::run_loop(furrow::comm::asked(std::span(words).subspan(1)));
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
