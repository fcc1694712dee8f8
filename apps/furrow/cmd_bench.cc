// furrow bench: measurements of this machine with furrow's own parts.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <span>

#include "apps/furrow/bench_comm.h"
#include "apps/furrow/bench_data.h"
#include "apps/furrow/bench_scaling.h"
#include "apps/furrow/commands.h"
#include "apps/furrow/launcher.h"
#include "apps/furrow/ranks.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/names.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/comm/algorithm.h"
#include "furrow/config/config.h"

namespace furrow::app {
namespace {

struct BenchRow {
  std::string_view name;
  size_t positional;                          // words, the name among them
  std::span<const std::string_view> options;  // of kOptions, those that it takes
  int (*run)(const Arguments& arguments);
};

std::vector<int> parse_rank_list(const std::string& text) {
  std::vector<int> ranks;
  for (const std::string& part : split(text, ',')) ranks.push_back(parse_ranks(part));
  return ranks;
}

int parse_positive(const Arguments& arguments, std::string_view option, std::string_view otherwise) {
  const std::string text = arguments.get(option, otherwise);
  int64_t value = 0;
  if (!parse_int(text, value) || value < 1 || value > 1'000'000)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is a number from 1, not '{}'", option, text));
  return static_cast<int>(value);
}

CommBenchOptions comm_options(const Arguments& arguments) {
  CommBenchOptions options;
  if (arguments.has("--op")) options.operations = split(arguments.get("--op", ""), ',');
  const auto known = comm_bench_operations();
  for (const std::string& name : options.operations) {
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw Error(ErrorCode::kInvalidArgument, unknown_name_message("operation", name, known));
  }
  options.canonical = !arguments.has("--algorithm");
  return options;
}

// Nothing else has an effect on what is measured.
void refuse_other_sections(const Arguments& arguments) {
  for (const std::string& word : arguments.overrides) {
    if (!word.starts_with("--") || word.starts_with("--comm.")) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`furrow bench comm` trains nothing: of a config it takes [comm] alone, not {}",
                            word.substr(0, word.find('='))));
  }
}

// [comm] of the overrides, and what the options say.
config::Config comm_config(const Arguments& arguments) {
  refuse_other_sections(arguments);
  config::Config config = config::parse("[training]\nsteps = 1\n", "bench", arguments.overrides);
  for (const auto& [option, key] : {std::pair{"--transport", "comm.transport"},
                                    {"--algorithm", "comm.algorithm"},
                                    {"--backend", "comm.backend"}}) {
    if (arguments.has(option)) config::set(config, key, arguments.get(option, ""));
  }
  if (config.comm.algorithm != "auto") comm::algorithm_index(config.comm.algorithm);
  if (config.comm.backend == "nccl") {
    throw Error(ErrorCode::kInvalidArgument,
                "`furrow bench comm` measures memory of the host, which backend nccl leaves to native: "
                "measure native, or GPUs with nccl-tests");
  }
  if (arguments.has("--tune") && config.comm.backend != "native") {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--tune chooses among furrow's own algorithms: backend {} has its own",
                            config.comm.backend));
  }
  if (arguments.has("--tune") && !config.comm.throttle.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "--tune keeps what it measures for later runs, and an emulated link is none of theirs: leave "
                "out --comm.throttle");
  }
  return config;
}

// Known before minutes of measuring.
void require_writable(const std::string& path) try {
  make_directories(parent_directory(path));
  if (std::filesystem::is_directory(path)) throw errno_error(EISDIR, "write", path);
  const AtomicFile probe(path);  // gone again
} catch (const Error& error) {
  throw Error(error.code(), fmt::format("{}: nothing is measured: name another file with FURROW_COMM_TUNING",
                                        error.what()));
}

// Rank 0 writes the file for the machine.
void tune_rank(comm::Membership& membership, const CommBenchOptions& options) {
  comm::Communicator& communicator = membership.communicator();
  const comm::Wires wires = tune_comm(communicator, options);
  if (communicator.rank() != 0) return;
  comm::AlgorithmTable table = communicator.algorithms();
  table.set_machine({cpu_model(), host_name()});
  if (const auto link = membership.link()) table.set_link(wires, *link);
  const std::string path = tuning_file();
  make_directories(parent_directory(path));
  write_file_atomic(path, table.to_text());
  log_info(fmt::format("algorithms for {} ranks: {}", communicator.size(), path));
}

int measure_comm(const Arguments& arguments, const comm::World& world, const config::Config& config) {
  const CommBenchOptions options = comm_options(arguments);
  std::vector<CommBenchRow> rows;
  in_world(world, config, nullptr, [&](comm::Membership& membership) {
    membership.communicator().world().barrier("start");
    membership.communicator().end_start();
    if (arguments.has("--tune")) tune_rank(membership, options);
    rows = bench_comm(membership.communicator(), options);
  });
  if (world.rank == 0) fmt::print("{}", comm_bench_table(rows).print(arguments.has("--json")));
  return 0;
}

std::vector<std::string> words_of_a_rank(const Arguments& arguments) {
  std::vector<std::string> words = {"bench", "comm", "--json"};
  for (const char* option : {"--op", "--transport", "--algorithm", "--backend"}) {
    if (arguments.has(option)) words.push_back(fmt::format("{}={}", option, arguments.get(option, "")));
  }
  if (arguments.has("--tune")) words.emplace_back("--tune");
  words.insert(words.end(), arguments.overrides.begin(), arguments.overrides.end());
  return words;
}

int run_comm(const Arguments& arguments) {
  const comm::World world = arguments.has("--nproc") ? comm::World{} : this_world();
  config::Config config;
  before_joining(world, [&] {  // what is wrong is told before anything starts
    comm_options(arguments);
    config = comm_config(arguments);
    if (arguments.has("--tune") && world.rank == 0) require_writable(tuning_file());
  });
  if (world.size > 1) return measure_comm(arguments, world, config);
  refuse_inside_a_world();
  refuse_to_launch(config, "bench comm --backend mpi");
  std::vector<CommBenchRow> rows;
  for (const int ranks : parse_rank_list(arguments.get("--nproc", "2,4,8"))) {
    if (ranks < 2)
      throw Error(ErrorCode::kInvalidArgument, "one rank has nobody to talk to: --nproc 2 or more");
    std::string printed;
    LaunchRequest request;
    request.words = words_of_a_rank(arguments);
    request.ranks = ranks;
    request.output = &printed;
    const Launched launched = launch(request);
    if (launched.exit_status != 0) return report(launched);
    const auto more = parse_comm_bench(printed);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  fmt::print("{}", comm_bench_table(rows).print(arguments.has("--json")));
  return 0;
}

int run_scaling(const Arguments& arguments) {
  refuse_inside_a_world();
  if (arguments.has("--weak") && arguments.has("--strong"))
    throw Error(ErrorCode::kInvalidArgument, "--weak or --strong, not both");
  ScalingOptions options;
  options.config = arguments.positional[1];
  options.overrides = arguments.overrides;
  options.ranks = parse_rank_list(arguments.get("--nproc", "1,2"));
  options.strong = arguments.has("--strong");
  options.repeats = parse_positive(arguments, "--repeats", "7");
  options.steps = parse_positive(arguments, "--steps", "20");
  if (options.steps < 2)
    throw Error(ErrorCode::kInvalidArgument, "--steps 2 or more: the first one is not counted");
  const auto rows = bench_scaling(options);
  fmt::print("{}", scaling_table(rows, options.strong).print(arguments.has("--json")));
  return 0;
}

constexpr std::string_view kCommOptions[] = {"--nproc",   "--op",   "--transport", "--algorithm",
                                             "--backend", "--tune", "--json"};
constexpr std::string_view kScalingOptions[] = {"--nproc",   "--weak",  "--strong",
                                                "--repeats", "--steps", "--json"};
constexpr std::string_view kDataOptions[] = {"--seconds", "--json"};

constexpr BenchRow kBenches[] = {
    {"comm", 1, kCommOptions, run_comm},
    {"data", 2, kDataOptions, bench_data},
    {"scaling", 2, kScalingOptions, run_scaling},
};

const BenchRow& find_bench(const std::string& name) {
  std::vector<std::string> known;
  for (const BenchRow& bench : kBenches) {
    if (bench.name == name) return bench;
    known.emplace_back(bench.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("bench", name, known));
}

int run_bench(const Arguments& arguments) {
  const BenchRow& bench = find_bench(arguments.positional[0]);
  if (arguments.positional.size() != bench.positional) {
    throw Error(ErrorCode::kInvalidArgument,
                bench.positional == 1 ? fmt::format("`furrow bench {}` takes no config", bench.name)
                                      : fmt::format("`furrow bench {}` needs a CONFIG", bench.name));
  }
  for (const auto& [option, value] : arguments.options) {
    if (std::find(bench.options.begin(), bench.options.end(), option) != bench.options.end()) continue;
    throw Error(ErrorCode::kInvalidArgument, fmt::format("`furrow bench {}` has no option {}: it takes {}",
                                                         bench.name, option, fmt::join(bench.options, " ")));
  }
  return bench.run(arguments);
}

constexpr Option kOptions[] = {
    {"--nproc", "N,N", "numbers of ranks on this machine (comm: 2,4,8; scaling: 1,2)"},
    {"--op", "OP,OP",
     "comm: all_reduce, reduce_scatter, all_gather, broadcast, reduce, all_to_all, send_recv"},
    {"--transport", "auto|shm|tcp", "comm: how bytes travel"},
    {"--algorithm", "NAME", "comm: that algorithm wherever it fits"},
    {"--backend", "native|mpi", "comm: what carries out the operations; mpi: below mpirun, without --nproc"},
    {"--tune", "", "comm: measure every algorithm first and keep the fastest ones for this machine"},
    {"--weak", "", "scaling: every rank brings the batch of one (default)"},
    {"--strong", "", "scaling: the ranks share one batch"},
    {"--repeats", "N", "scaling: how often each is measured, in turns (default 7)"},
    {"--steps", "N", "scaling: steps of each training (default 20)"},
    {"--seconds", "S", "data: how long each way is measured (default 2)"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kBenchCommand{
    .name = "bench",
    .arguments = "comm|data|scaling [CONFIG]",
    .min_positional = 1,
    .max_positional = 2,
    .takes_overrides = true,
    .summary = "measure the wires between ranks, the feed, or how training scales",
    .description =
        "  furrow bench comm --nproc 2 --op all_reduce\n"
        "  furrow bench data packs/mnist\n"
        "  furrow bench scaling examples/gpt-shakespeare.toml --nproc 1,2\n"
        "\n"
        "comm: columns as in nccl-tests, and the bytes on the wire beside the least possible, of float32\n"
        "and sums, in memory that ranks of a host see in place, as training has it (any other is copied\n"
        "once more: an all_reduce then takes three to four times as long). It also runs under torchrun,\n"
        "srun and mpirun. --tune writes the algorithms that later runs on this kind of processor use\n"
        "(FURROW_COMM_TUNING, else ~/.config/furrow/comm-tuning).\n"
        "data: batches of the training split in shuffled order, with nothing else to do; a config, a run or "
        "a\n"
        "data set. A pack is measured mapped and streamed, a folder of images is decoded: by the thread that "
        "asks\n"
        "alone (readers: none), by one reader and by several; where a core is left, the thread that asks "
        "reads\n"
        "too. stored counts the bytes that are read, delivered those of the batches, both in GB/s.\n"
        "scaling: samples per second on N ranks over those of N independent one-rank runs at the same "
        "time.\n",
    .options = kOptions,
    .run = run_bench,
};

}  // namespace furrow::app
