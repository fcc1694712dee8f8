#include "apps/furrow/bench_comm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <mutex>

#include "furrow/base/error.h"
#include "furrow/comm/algorithm.h"
#include "tests/testing/run_ranks.h"

namespace furrow::app {
namespace {

CommBenchOptions quick() {
  CommBenchOptions options;
  options.most_bytes = 16 * 1024;
  options.seconds_per_row = 0.001;
  return options;
}

// Of rank 0, after checking that every rank has the same.
std::vector<CommBenchRow> run(int ranks, const CommBenchOptions& options) {
  std::mutex mutex;
  std::vector<std::string> texts;
  std::vector<CommBenchRow> rows;
  testing::run_ranks(ranks,
                     [&](comm::Communicator& communicator) {
                       const auto mine = bench_comm(communicator, options);
                       const std::lock_guard lock(mutex);
                       texts.push_back(comm_bench_table(mine).json());
                       rows = mine;
                     },
                     {.timeout_ms = 5000});
  for (const std::string& text : texts) EXPECT_EQ(text, texts[0]);
  return rows;
}

TEST(BenchComm, MeasuresEveryOperationAndSize) {
  for (const int ranks : {2, 3}) {
    const auto rows = run(ranks, quick());
    ASSERT_EQ(rows.size(), comm_bench_operations().size() * 3);
    for (const CommBenchRow& row : rows) {
      EXPECT_EQ(row.ranks, ranks);
      EXPECT_EQ(row.transport, "inproc");
      EXPECT_FALSE(row.algorithm.empty());
      EXPECT_GT(row.p50_us, 0);
      EXPECT_GE(row.p99_us, row.p50_us);
      EXPECT_LE(row.bytes, 16 * 1024);
      EXPECT_EQ(row.bytes % (4 * ranks), 0);
      EXPECT_GE(row.wire_bytes, row.bound_bytes) << row.operation << " " << row.bytes;
      EXPECT_GT(row.bound_bytes, 0) << row.operation;
    }
  }
}

TEST(BenchComm, OnlyWhatWasAskedFor) {
  CommBenchOptions options = quick();
  options.operations = {"all_gather"};
  options.least_bytes = options.most_bytes = 4096;
  const auto rows = run(2, options);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].bytes, 4096);
  EXPECT_EQ(rows[0].bound_bytes, 2048);
  options.operations = {"all_gathr"};
  EXPECT_THROW(run(2, options), Error);
}

TEST(BenchComm, BusBandwidthCountsWhatEachWireCarries) {
  CommBenchRow row;
  row.bytes = 4'000'000;
  row.p50_us = 1000;
  row.ranks = 4;
  for (const auto& [operation, factor] : std::vector<std::pair<const char*, double>>{{"all_reduce", 1.5},
                                                                                     {"reduce_scatter", 0.75},
                                                                                     {"all_gather", 0.75},
                                                                                     {"all_to_all", 0.75},
                                                                                     {"broadcast", 1}}) {
    row.operation = operation;
    EXPECT_DOUBLE_EQ(row.bus_gbps(), 4 * factor) << operation;
  }
}

TEST(BenchComm, RowsReadBack) {
  CommBenchRow row{
      .operation = "reduce", .algorithm = "direct", .transport = "shm", .ranks = 4, .bytes = 1024};
  row.p50_us = 1.5;
  row.p99_us = 2.25;
  row.wire_bytes = 800;
  row.bound_bytes = 768;
  const std::string json = comm_bench_table({row, row}).json();
  const auto back = parse_comm_bench(json);
  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(comm_bench_table(back).json(), json);
  for (const char* key : {"op", "algorithm", "transport", "ranks", "bytes", "p50_us", "p99_us", "busbw_gbps",
                          "wire_bytes", "bound_bytes"}) {
    EXPECT_NE(json.find(fmt::format("\"{}\"", key)), std::string::npos) << key;
  }
  for (const char* wrong : {"{}", "[{}]", "[{\"op\": 3}]"})
    EXPECT_THROW(parse_comm_bench(wrong), Error) << wrong;
}

TEST(BenchComm, TuningChoosesForEverySizeAndReadsBack) {
  std::mutex mutex;
  std::vector<std::string> texts;
  CommBenchOptions options = quick();
  options.operations = {"all_reduce", "broadcast"};
  testing::run_ranks(2, [&](comm::Communicator& communicator) {
    tune_comm(communicator, options);
    const std::lock_guard lock(mutex);
    texts.push_back(communicator.algorithms().to_text());
  });
  EXPECT_EQ(texts.at(0), texts.at(1));
  const auto table = comm::AlgorithmTable::parse(texts[0]);
  EXPECT_EQ(table.to_text(), texts[0]);
  for (const auto kind : {comm::CollectiveKind::kAllReduce, comm::CollectiveKind::kBroadcast}) {
    int covering = 0;
    for (const auto& entry : table.entries()) {
      covering += entry.kind == kind && entry.ranks == 2 && entry.bytes == INT64_MAX ? 1 : 0;
    }
    EXPECT_GE(covering, 1);
  }
}

// What was tuned before stays for what is not tuned now.
TEST(BenchComm, TuningAddsToTheTable) {
  CommBenchOptions options = quick();
  options.operations = {"broadcast"};
  testing::run_ranks(2, [&](comm::Communicator& communicator) {
    communicator.set_algorithms(
        comm::AlgorithmTable::parse("furrow-comm-tuning 2\nprocessor Z80\nall_reduce memory 2 * ring\n"));
    tune_comm(communicator, options);
    const std::string text = communicator.algorithms().to_text();
    EXPECT_NE(text.find("all_reduce memory 2 * ring\n"), std::string::npos) << text;
    EXPECT_NE(text.find("broadcast memory 2 * "), std::string::npos) << text;
  });
}

// Of all pairs, wherever rank 0 is.
TEST(BenchComm, NamesTheTransportsOfAllPairs) {
  CommBenchOptions options = quick();
  options.operations = {"broadcast"};
  options.least_bytes = options.most_bytes = 1024;
  const auto transport_on = [&](int ranks, std::vector<int> hosts) {
    std::mutex mutex;
    std::vector<std::string> names;
    testing::RankOptions on{.host = std::move(hosts), .tcp_between_hosts = true};
    testing::run_ranks_with(ranks, on, [&](comm::Communicator& communicator) {
      const auto rows = bench_comm(communicator, options);
      const std::lock_guard lock(mutex);
      names.push_back(rows.at(0).transport);
    });
    for (const std::string& name : names) EXPECT_EQ(name, names[0]);
    return names.at(0);
  };
  EXPECT_EQ(transport_on(3, {0, 0, 1}), "inproc+tcp");
  EXPECT_EQ(transport_on(3, {0, 1, 1}), "inproc+tcp");
  EXPECT_EQ(transport_on(2, {0, 1}), "tcp");
}

TEST(BenchComm, TuningIsTheSameOnARankThatIsAloneOnItsHost) {
  std::mutex mutex;
  std::vector<std::string> texts;
  CommBenchOptions options = quick();
  options.operations = {"all_reduce"};
  testing::RankOptions hosts{.host = {0, 0, 1}, .tcp_between_hosts = true};
  testing::run_ranks_with(3, hosts, [&](comm::Communicator& communicator) {
    tune_comm(communicator, options);
    const std::lock_guard lock(mutex);
    texts.push_back(communicator.algorithms().to_text());
  });
  EXPECT_NE(texts.at(0).find("all_reduce mixed 3 *"), std::string::npos) << texts[0];
  EXPECT_EQ(texts.at(1), texts[0]);
  EXPECT_EQ(texts.at(2), texts[0]);
}

}  // namespace
}  // namespace furrow::app
