// Collectives over ranks that are threads, the arithmetic alone, and with --ranks real processes for
// bench/comm.py:
//   comm_bench                                  google-benchmark
//   comm_bench --ranks N [plain]                one line of JSON per size: all_reduce of float32 in place
//   over shm, each rank
//                                               pinned to a core; `plain`: in memory that peers cannot see
//   comm_bench --loop                           two threads that sum the same arrays, each a half, both
//   written
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <cstring>
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

void measure(Communicator& communicator, bool plain) {
  Group world = communicator.world();
  for (const int64_t bytes : kSizes) {
    const auto size = static_cast<size_t>(bytes);
    Memory memory = plain ? Memory(plain_block(size), size, MemoryKind::kOther) : communicator.allocate(size);
    std::vector<double> us(static_cast<size_t>(calls_for(bytes)));
    for (int i = 0; i < 3; ++i) world.all_reduce(memory.as<float>());
    for (double& one : us) {
      const int64_t begin_ns = system_clock().monotonic_ns();
      world.all_reduce(memory.as<float>());
      one = static_cast<double>(system_clock().monotonic_ns() - begin_ns) * 1e-3;
    }
    world.all_reduce(std::span(us), Reduction::kMax);  // a call lasts until the last rank has it
    if (communicator.rank() == 0) print_row(bytes, us);
    world.barrier();
  }
}

int run_processes(int ranks, bool plain) {
  const testing::TemporaryFolder folder;
  for (int r = 0; r < ranks; ++r) {
    if (fork() != 0) continue;
    pin(r);
    try {
      measure(*testing::join_processes(folder.path(), r, ranks), plain);
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

// What an all_reduce of two ranks cannot beat: both halves read twice and written twice.
void sum_halves(float* a, float* b, size_t elements) {
  for (size_t i = 0; i < elements; ++i) a[i] = b[i] = a[i] + b[i];
}

int run_loop() {
  for (const int64_t bytes : kSizes) {
    const size_t elements = static_cast<size_t>(bytes) / sizeof(float), half = elements / 2;
    std::vector<float> a(elements), b(elements);
    std::vector<double> us(static_cast<size_t>(calls_for(bytes)));
    std::barrier both(2);
    const auto body = [&](size_t self) {
      pin(static_cast<int>(self));
      for (double& one : us) {
        both.arrive_and_wait();
        const int64_t begin_ns = system_clock().monotonic_ns();
        sum_halves(a.data() + self * half, b.data() + self * half, half);
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
    return furrow::comm::run_processes(std::stoi(words[1]), words.size() > 2 && words[2] == "plain");
  }
  if (!words.empty() && words[0] == "--loop") return furrow::comm::run_loop();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
