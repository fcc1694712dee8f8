// furrow data: packs of data sets.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "apps/furrow/commands.h"
#include "apps/furrow/data_config.h"
#include "apps/furrow/progress_line.h"
#include "apps/furrow/signals.h"
#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/names.h"
#include "furrow/base/process.h"
#include "furrow/base/table.h"
#include "furrow/base/text.h"
#include "furrow/base/version.h"
#include "furrow/config/config.h"
#include "furrow/data/dataset.h"
#include "furrow/data/pack.h"
#include "furrow/data/pack_work.h"
#include "furrow/data/records.h"
#include "furrow/storage/pack.h"

namespace furrow::app {
namespace {

int threads_of(const Arguments& arguments) {
  int64_t threads = core_count();
  if (!arguments.has("--threads")) return static_cast<int>(threads);
  if (parse_int(arguments.get("--threads", ""), threads) && threads >= 1 && threads <= 1024) {
    return static_cast<int>(threads);
  }
  throw Error(ErrorCode::kInvalidArgument, "--threads is no number from 1 to 1024");
}

uint64_t shard_bytes_of(const Arguments& arguments) {
  uint64_t bytes = 0;
  if (!arguments.has("--shard-size")) return 0;
  const std::string text = arguments.get("--shard-size", "");
  if (!parse_bytes(text, bytes))
    throw Error(ErrorCode::kInvalidArgument, "--shard-size is no number of bytes: write one such as 64MiB");
  if (bytes >= storage::kLeastPackBlockBytes) return bytes;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--shard-size {} is below the {} that have one checksum: write one such as 64MiB",
                          text, format_bytes(storage::kLeastPackBlockBytes)));
}

// --layout: the way that images are kept, or empty.
std::string layout_of(const Arguments& arguments, const data::DatasetOptions& options) {
  std::string layout = arguments.get("--layout", "");
  if (layout.empty()) return layout;
  if (layout == data::kEncodedRecords && options.kind != "folder" && options.kind != "mixture" &&
      options.kind != "pack") {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("--layout encoded keeps image files, and {} holds none (it is read as '{}'): leave "
                    "--layout out",
                    options.path.string(), options.kind));
  }
  if (layout == data::kImageRecords && options.augmentation.resized_crop) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "--layout images keeps what is cut of each image, and [data] random_resized_crop takes regions "
        "of all of it: leave one of the two out");
  }
  return layout;
}

// A text is tokenised into the folder where the pack is written: it need not fit into memory, and what is
// done once need not be done again.
data::PackSummary pack(data::DatasetOptions options, data::PackRequest& request) {
  ProgressLine reading("read");
  options.opening = {.threads = request.threads,
                     .progress = [&](uint64_t done, uint64_t total) { reading.show(done, total); },
                     .listed = [&](uint64_t files) { reading.count(files); },
                     .cancel = request.cancel};
  request.lineage.merge(data::sources_of(options));
  request.fingerprint = data::fingerprint_of(options);
  const data::PackWork work(request.folder, request.fingerprint);
  options.opening.spool = work.folder();
  const data::Dataset dataset = data::open_dataset(options);
  ProgressLine writing("packed");
  request.progress = [&](uint64_t done, uint64_t total) { writing.show(done, total); };
  return data::write_pack(dataset, request);
}

int run_pack(const Arguments& arguments, const std::string& source) {
  if (!arguments.has("--out")) {
    throw Error(ErrorCode::kInvalidArgument, "`furrow data pack SOURCE` needs --out DIR, the folder to make");
  }
  const config::Config config = data_config(source, arguments.overrides);
  data::PackRequest request{.folder = arguments.get("--out", ""), .kind = config.training.dataset};
  data::DatasetOptions options = data::dataset_options(config);
  request.layout = layout_of(arguments, options);
  options.keep_files = request.layout == data::kEncodedRecords || options.augmentation.resized_crop;
  data::check_absent(request.folder);
  data::check_apart(request.folder, options);
  request.lineage = {{"furrow_version", std::string(furrow_version())},
                     {"seed", fmt::format("{}", config.debug.seed)},
                     {"validation_fraction", format_double(config.data.validation_fraction)}};
  request.threads = threads_of(arguments);
  request.shard_bytes = shard_bytes_of(arguments);
  CancelToken cancel;
  const SignalScope signals(&cancel);
  request.cancel = &cancel;
  data::PackSummary summary;
  try {
    summary = pack(options, request);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    log_info(error.what());
    return 128 + cancel.reason();
  }
  Table table({{"pack"}, {"records"}, {"bytes", "", kAsBytes}, {"shards"}, {"kept shards"}});
  const bool json = arguments.has("--json");
  table.add_row(
      {request.folder, summary.records, static_cast<int64_t>(summary.bytes), summary.shards, summary.kept});
  fmt::print("{}", table.print(json));
  return 0;
}

// Of a mixture: an empty line and its sets.
std::string sets_text(const storage::PackInfo& info) {
  if (info.parts.empty()) return "";
  double weights = 0;
  for (const storage::PackPart& part : info.parts) weights += part.weight;
  Table sets({{"set"}, {"splits"}, {"weight"}, {"% of an epoch", "", 2}, {"layout"}});
  for (size_t i = 0; i < info.parts.size(); ++i) {
    const storage::PackPart& part = info.parts[i];
    sets.add_row({part.name, fmt::format("*{}", data::part_suffix(i)), format_double(part.weight),
                  100 * part.weight / weights, part.layout});
  }
  return fmt::format("\n{}", sets.text());
}

// Error{not_found}, {data_loss} names the first shard that is missing, cut short or of another pack.
void check_shards(const std::string& folder, const storage::PackInfo& info) {
  for (const storage::PackSplit& split : info.splits)
    storage::PackReader(folder, info, split, storage::PackAccess::kMapped);
}

int run_info(const Arguments& arguments, const std::string& folder) {
  const storage::PackInfo info = storage::read_pack(folder);
  if (arguments.has("--json")) {
    fmt::print("{}", storage::to_json(info));
    check_shards(folder, info);
    return 0;
  }
  Table splits({{"split"}, {"records"}, {"bytes", "", kAsBytes}, {"shards"}});
  for (const storage::PackSplit& split : info.splits) {
    const auto bytes =
        static_cast<int64_t>(static_cast<uint64_t>(split.records()) * info.record_bytes(split));
    splits.add_row({split.name, split.records(), bytes, static_cast<int64_t>(split.shards.size())});
  }
  Table fields({{"field"}, {"dtype"}, {"shape"}});
  for (const storage::PackField& field : info.fields) {
    fields.add_row({field.name, std::string(to_string(field.dtype)), to_string(field.shape)});
  }
  Table values({{"figure"}, {"value"}});
  values.add_row({std::string("made of"), info.kind});
  values.add_row({std::string("layout"), info.layout});
  values.add_row({std::string("bytes of a record"), static_cast<int64_t>(info.record_bytes())});
  const auto add = [&values](const char* group, const std::map<std::string, std::string>& entries) {
    constexpr size_t kLongest = 60;  // a fitted vocabulary is no reading
    for (const auto& [name, value] : entries) {
      const std::string shown = join(split(value, '\n'), ", ");
      values.add_row({fmt::format("{} {}", group, name),
                      shown.size() <= kLongest ? shown : fmt::format("({} bytes)", value.size())});
    }
  };
  add("fitted", info.preprocessing);
  add("lineage", info.lineage);
  fmt::print("{}{}\n{}\n{}", splits.text(), sets_text(info), fields.text(), values.text());
  check_shards(folder, info);
  return 0;
}

struct Verdict {
  std::string split, shard;
  std::vector<std::string> damage;
};

// A row per shard; a split whose shards cannot be opened together has one row that says why.
std::vector<Verdict> verdicts_on(const std::string& folder, int threads) {
  const storage::PackInfo info = storage::read_pack(folder);
  std::vector<Verdict> verdicts;
  for (const storage::PackSplit& split : info.splits) {
    for (const storage::PackShard& shard : split.shards) verdicts.push_back({split.name, shard.file, {}});
  }
  uint64_t total = 0, done = 0;
  for (const storage::PackSplit& split : info.splits) {
    total += static_cast<uint64_t>(split.records()) * info.record_bytes(split);
  }
  ProgressLine line("compared");
  std::mutex mutex;
  size_t first = 0;
  for (const storage::PackSplit& split : info.splits) {
    std::atomic<size_t> next{0};
    int64_t before = 0;
    std::vector<int64_t> starts;
    for (const storage::PackShard& shard : split.shards) {
      starts.push_back(before);
      before += shard.records;
    }
    const auto work = [&] {
      for (size_t i = next++; i < split.shards.size(); i = next++) {
        Verdict& verdict = verdicts[first + i];
        try {
          verdict.damage =
              storage::verify_shard(folder, info.record_bytes(split), split.shards[i], starts[i]);
        } catch (const Error& error) {
          verdict.damage = {error.what()};
        }
        const std::lock_guard lock(mutex);
        done += static_cast<uint64_t>(split.shards[i].records) * info.record_bytes(split);
        line.show(done, total);
      }
    };
    {
      std::vector<std::jthread> workers;
      for (int t = 1; t < threads; ++t) workers.emplace_back(work);
      work();
    }
    first += split.shards.size();
  }
  return verdicts;
}

int run_verify(const Arguments& arguments, const std::string& folder) {
  Table table({{"split"}, {"shard"}, {"verdict"}});
  size_t damaged = 0, shards = 0;
  for (const Verdict& verdict : verdicts_on(folder, threads_of(arguments))) {
    ++shards;
    if (verdict.damage.empty()) table.add_row({verdict.split, verdict.shard, std::string("whole")});
    for (const std::string& damage : verdict.damage) table.add_row({verdict.split, verdict.shard, damage});
    damaged += !verdict.damage.empty();
  }
  fmt::print("{}", table.print(arguments.has("--json")));
  if (damaged == 0) return 0;
  throw Error(ErrorCode::kDataLoss, fmt::format("{} of the {} shards of {} are damaged: pack the data again",
                                                damaged, shards, folder));
}

struct Verb {
  std::string_view name;
  int (*run)(const Arguments& arguments, const std::string& what);
};
constexpr Verb kVerbs[] = {{"pack", &run_pack}, {"info", &run_info}, {"verify", &run_verify}};

int run_data(const Arguments& arguments) {
  std::vector<std::string> known;
  for (const Verb& verb : kVerbs) {
    if (verb.name == arguments.positional[0]) return verb.run(arguments, arguments.positional[1]);
    known.emplace_back(verb.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("verb", arguments.positional[0], known));
}

constexpr Option kOptions[] = {
    {"--out", "DIR", "pack: the folder to make"},
    {"--layout", "images|encoded", "pack: images, cut to their size, or encoded, the files as they are"},
    {"--shard-size", "BYTES", "pack: bytes of one shard, such as 64MiB (the default)"},
    {"--threads", "N", "pack, verify: shards at once (default: every core)"},
    {"--json", "", "print JSON"},
};

}  // namespace

const Command kDataCommand{
    .name = "data",
    .arguments = "pack|info|verify SOURCE|DIR",
    .min_positional = 2,
    .max_positional = 2,
    .takes_overrides = true,
    .summary = "pack data sets, and look into packs",
    .description =
        "  furrow data pack examples/convnet-fashion.toml --out packs/fashion\n"
        "  furrow data pack data/mnist --out packs/mnist --data.validation_fraction 0.02\n"
        "  furrow data info packs/mnist\n"
        "  furrow data verify packs/mnist\n"
        "  furrow train CONFIG --training.dataset pack --training.dataset_path packs/mnist\n"
        "\n"
        "SOURCE is a config, a run, or the data themselves; --section.key changes how they are read.\n"
        "pack writes the splits as they are cut and fitted there; training from the pack gives the same\n"
        "bits. Images are kept as they are cut or, with random_resized_crop or --layout encoded, as files.\n"
        "Interrupted, it leaves DIR.partial, where the same command goes on. verify compares every byte\n"
        "with its checksum.\n",
    .options = kOptions,
    .run = run_data,
};

}  // namespace furrow::app
