// One rank of tests/multiprocess/mpi_backend_test.sh:
//
//   mpi_ranks MODE FOLDER
//
// Ranks join two worlds, one with the native backend and one over MPI.  Says what it found on stdout; exits 0
// when everything was as it must be, 3 after an error that the mode is about (three ranks, which meet in
// FOLDER at the end).
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "furrow/base/clock.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/join.h"
#include "tests/multiprocess/mpi_cases.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  if (failures < 20) fmt::print("FAILED {}\n", what);
}

struct Ranks {
  std::string folder;
  World world;

  std::unique_ptr<Membership> join(const std::string& backend, bool throttled = false) const {
    World meeting = world;
    meeting.token += backend;  // two meetings at the same time
    JoinOptions options;
    options.comm.backend = backend;
    if (throttled) options.comm.throttle = "1Gbit";
    options.comm.init_timeout_seconds = options.comm.train_timeout_seconds = 60;
    return comm::join(meeting, options);
  }
};

size_t differing(const Bytes& a, const Bytes& b) {
  size_t n = 0;
  for (size_t i = 0; i < a.size(); ++i) n += a[i] != b[i] ? 1 : 0;
  return n;
}

// Every case on a group of each communicator: equal bits, of `in` too.
void compare(Communicator& native, Communicator& mpi, std::vector<int> members, bool canonical,
             const char* name, uint64_t every = 1) {
  Group ours = native.group(members, {.name = name});
  Group theirs = mpi.group(members, {.name = name, .canonical = canonical});
  int done = 0;
  for (const Case& c : make_cases(ours.size(), !canonical)) {
    if (c.seed % every != 0) continue;
    // Products and averages are not exact in any order.
    if (!canonical && c.reduction != Reduction::kSum && c.reduction != Reduction::kMin &&
        c.reduction != Reduction::kMax)
      continue;
    const Bytes expected = Trial(c, ours).run(ours, false);
    const Bytes found = Trial(c, theirs).run(theirs, c.seed % 2 == 0);
    expect(found == expected, fmt::format("{} in {}: {} of {} bytes differ", c.text(), name,
                                          differing(found, expected), found.size()));
    ++done;
  }
  theirs.barrier("end");
  fmt::print("{}: {} cases of {} ranks\n", name, done, ours.size());
}

// The tree over another order of the ranks gives other bits, so that equality above means something.  Two
// terms have one order.
void negative_control(Communicator& native, Communicator& mpi) {
  const int n = native.size();
  if (n < 3) return;
  std::vector<int> rotated(static_cast<size_t>(n));
  for (int r = 0; r < n; ++r) rotated[static_cast<size_t>(r)] = (r + 1) % n;
  Group straight = native.world(), other = mpi.group(rotated, {.name = "rotated"});
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    const Case c{.kind = CollectiveKind::kAllReduce, .size = 10007, .dtype = dtype};
    Bytes a = make_terms(c, c.size, static_cast<uint64_t>(native.rank())), b = a;
    straight.run({.kind = c.kind, .dtype = dtype, .in = a, .out = a});
    other.run({.kind = c.kind, .dtype = dtype, .in = b, .out = b});
    expect(a != b, fmt::format("another order of {} terms gives other bits", to_string(dtype)));
  }
}

void pairs_and_queues(Communicator& mpi) {
  Group world = mpi.world();
  const int n = mpi.size(), next = (mpi.rank() + 1) % n, last = (mpi.rank() + n - 1) % n;
  for (const size_t size : {size_t{0}, size_t{5}, size_t{700'000}}) {
    if (n == 1) break;
    std::vector<int64_t> out(size, mpi.rank()), in(size, -1);
    // A ring: everybody sends before anybody receives.
    world
        .start({{.kind = CollectiveKind::kSend,
                 .dtype = DType::kI64,
                 .in = std::as_bytes(std::span(out)),
                 .root_or_peer = next,
                 .label = "ring"},
                {.kind = CollectiveKind::kRecv,
                 .dtype = DType::kI64,
                 .out = std::as_writable_bytes(std::span(in)),
                 .root_or_peer = last,
                 .label = "ring"}})
        .wait();
    expect(in == std::vector<int64_t>(size, last), "a ring of sends");
  }
  // Many under way at once, on two groups.
  Group other = mpi.group(world.members(), {.name = "other"});
  std::vector<std::vector<double>> data(40, std::vector<double>(3000, mpi.rank()));
  std::vector<Work> works;
  for (size_t i = 0; i < data.size(); ++i) {
    const auto bytes = std::as_writable_bytes(std::span(data[i]));
    Group& group = i % 3 == 0 ? other : world;
    works.push_back(
        group.start({.kind = CollectiveKind::kAllReduce, .dtype = DType::kF64, .in = bytes, .out = bytes}));
  }
  for (Work& work : works) work.wait();
  const double expected = n * (n - 1) / 2.0;
  for (const auto& x : data) expect(x.front() == expected && x.back() == expected, "a queue of all_reduces");
}

// An all_reduce that is too large for the caller's thread.
Work start_sum(Group& group, std::vector<double>& data) {
  const auto bytes = std::as_writable_bytes(std::span(data));
  return group.start({.kind = CollectiveKind::kAllReduce, .dtype = DType::kF64, .in = bytes, .out = bytes});
}

// Two groups of the same ranks that meet at the same time, on two threads, each first on half of the ranks.
void groups_meet_at_once(Communicator& mpi) {
  const int n = mpi.size();
  for (int i = 0; i < 20; ++i) {
    Group beside = mpi.group(mpi.world().members(), {.name = "beside", .independent = true});
    Group other = mpi.group(mpi.world().members(), {.name = "at_once"});
    std::vector<double> a(3000, mpi.rank()), b(3000, 2 * mpi.rank());
    Work first, second;
    if (mpi.rank() % 2 == 0) first = start_sum(beside, a);
    second = start_sum(other, b);
    if (mpi.rank() % 2 == 1) first = start_sum(beside, a);
    first.wait();
    second.wait();
    expect(a.back() == n * (n - 1) / 2.0 && b.back() == n * (n - 1), "groups that meet at once");
  }
}

// A receive whose message comes last holds up nothing.
void lanes_pass_collectives(Communicator& mpi) {
  const int n = mpi.size(), next = (mpi.rank() + 1) % n, last = (mpi.rank() + n - 1) % n;
  if (n == 1) return;
  Group out = mpi.group({mpi.rank(), next}, {.name = "lane", .independent = true});
  Group in = mpi.group({last, mpi.rank()}, {.name = "lane", .independent = true});
  for (const size_t size : {size_t{3}, size_t{500'000}}) {
    std::vector<float> sent(size, static_cast<float>(mpi.rank())), received(size, -1);
    Work arrives = in.start({.kind = CollectiveKind::kRecv,
                             .out = std::as_writable_bytes(std::span(received)),
                             .root_or_peer = 0,
                             .label = "act"});
    std::vector<double> sum(3000, 1);
    Group world = mpi.world();
    for (int i = 0; i < 3; ++i) start_sum(world, sum).wait();
    expect(sum[7] == n * n * n, "collectives beside a receive");
    expect(!arrives.done(), "a receive before its send");
    world.barrier();
    Work leaves = out.start({.kind = CollectiveKind::kSend,
                             .in = std::as_bytes(std::span(sent)),
                             .root_or_peer = 1,
                             .label = "act"});
    arrives.wait();
    leaves.wait();
    expect(received == std::vector<float>(size, static_cast<float>(last)), "a transfer of a lane");
  }
}

// Within 1.01 of the bound from a megabyte on.
void ledger(Communicator& mpi) {
  if (mpi.size() == 1) return;
  Group group = mpi.group(mpi.world().members(), {.name = "ledger"});
  std::vector<float> all(size_t{1} << 19), own(all.size() / static_cast<size_t>(mpi.size()));
  all.resize(own.size() * static_cast<size_t>(mpi.size()));
  group.all_reduce(std::span(all));
  group.reduce_scatter(std::span<const float>(all), std::span(own));
  group.all_gather(std::span<const float>(own), std::span(all));
  int rows = 0;
  for (const LedgerRow& row : mpi.ledger().rows()) {
    if (row.group != "ledger") continue;
    const double ratio = static_cast<double>(row.wire_bytes) / static_cast<double>(row.bound_bytes);
    expect(ratio >= 1 && ratio < 1.01,
           fmt::format("{} moves {} times its bound", to_string(row.kind), ratio));
    ++rows;
  }
  expect(rows == 3, "three rows of the ledger");
}

int conformance(const Ranks& ranks) {
  const auto native_member = ranks.join("native"), mpi_member = ranks.join("mpi");
  Communicator *const native = &native_member->communicator(), *const mpi = &mpi_member->communicator();
  const std::vector<int> all = native->world().members();
  compare(*native, *mpi, all, true, "all");
  compare(*native, *mpi, all, false, "by_mpi");
  // Halves at the same time, listed backwards.
  std::vector<int> half;
  for (int r = mpi->size() - 1; r >= 0; --r) {
    if (r % 2 == mpi->rank() % 2) half.push_back(r);
  }
  compare(*native, *mpi, half, true, "half", 3);
  negative_control(*native, *mpi);
  pairs_and_queues(*mpi);
  groups_meet_at_once(*mpi);
  lanes_pass_collectives(*mpi);
  ledger(*mpi);
  mpi_member->leave();
  native_member->leave();
  return failures == 0 ? 0 : 1;
}

// Runs fn(communicator); says which error it was and after how long, and stays until `others` have said
// theirs: whoever started the ranks ends them all when one fails.
template <class Fn>
int report_error(const char* mode, const Ranks& ranks, const std::vector<int>& others, const Fn& fn) {
  std::unique_ptr<Membership> member;
  int64_t start_ns = 0;
  try {
    member = ranks.join("mpi", std::string_view(mode) == "throttled");
    member->communicator().world().barrier();
    start_ns = system_clock().monotonic_ns();
    fn(member->communicator());
    fmt::print("{}: no error\n", mode);
    return 1;
  } catch (const Error& error) {
    const int64_t ms = (system_clock().monotonic_ns() - start_ns) / 1'000'000;
    fmt::print("{}: {} after {} ms: {}\n", mode, to_string(error.code()), start_ns == 0 ? 0 : ms,
               error.what());
    if (member) member->fail(error);
  }
  testing::FolderRendezvous meeting(ranks.folder);
  meeting.set(fmt::format("said.{}", ranks.world.rank), "");
  for (const int r : others) {
    meeting.get(fmt::format("said.{}", r), system_clock().monotonic_ns() + 20'000'000'000);
  }
  return 3;
}

int other_size(const Ranks& ranks) {
  return report_error("other_size", ranks, {0, 1, 2}, [&](Communicator& mpi) {
    std::vector<float> x(mpi.rank() == 0 ? 1000 : 1001);
    mpi.world().all_reduce(std::span(x), Reduction::kSum, "grads h.3");
  });
}

// Rank 1 does not come, to a group that has met (the world) or not.
int absent(const Ranks& ranks, bool met) {
  return report_error("absent", ranks, {0, 1, 2}, [&](Communicator& mpi) {
    while (mpi.rank() == 1) {
      mpi.check_alive();
      std::this_thread::yield();
    }
    std::vector<float> x(1000);
    const auto bytes = std::as_writable_bytes(std::span(x));
    Group group = met ? mpi.world() : mpi.group({0, 1, 2}, {.name = "new"});
    group.run(
        {.kind = CollectiveKind::kAllReduce, .in = bytes, .out = bytes, .label = "loss", .timeout_ms = 300});
  });
}

int killed(const Ranks& ranks) {
  return report_error("killed", ranks, {0, 2}, [&](Communicator& mpi) {
    if (mpi.rank() == 1) std::raise(SIGKILL);
    mpi.world().barrier("never");
  });
}

// MPI starts once in a process.
int twice(const Ranks& ranks) {
  Ranks first = ranks;
  first.world.token += "first";
  first.join("mpi")->leave();
  return report_error("twice", ranks, {0, 1}, [](Communicator&) {});
}

int run(const std::string& mode, const Ranks& ranks) {
  if (mode == "conformance") return conformance(ranks);
  if (mode == "other_size") return other_size(ranks);
  if (mode == "absent") return absent(ranks, false);
  if (mode == "absent_later") return absent(ranks, true);
  if (mode == "twice") return twice(ranks);
  if (mode == "killed") return killed(ranks);
  return report_error(mode.c_str(), ranks, {}, [](Communicator&) {});
}

}  // namespace
}  // namespace furrow::comm

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    return furrow::comm::run(argv[1],
                             {argv[2], furrow::comm::discover_world(furrow::comm::process_environment())});
  } catch (const std::exception& error) {
    fmt::print("ERROR {}\n", error.what());
    return 1;
  }
}
