#include "furrow/config/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "furrow/base/error.h"
#include "furrow/config/batch_note.h"
#include "furrow/config/schema.h"

namespace furrow::config {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::string_view kSmall = "[training]\nsteps = 10\n";

std::string message_of(const std::function<void()>& act, ErrorCode code = ErrorCode::kInvalidArgument) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::string parse_error(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return message_of([&] { parse(text, "x.toml", overrides); });
}

TEST(Parse, ReadsEveryTypeAndKeepsDefaults) {
  const Config config = parse(R"(
[model]
name = "mlp"
hidden = [8, 16]
dropout = 0
[training]
steps = 20          # an integer
dataset_path = 'C:\raw'
[optimizer]
lr = 1              # an integer where a number is wanted
nesterov = false
[activation_checkpoint]
units = ["block*", "head"]
)",
                              "x.toml");
  EXPECT_EQ(config.model.hidden, (std::vector<int64_t>{8, 16}));
  EXPECT_EQ(config.training.steps, 20);
  EXPECT_EQ(config.training.dataset_path, "C:\\raw");
  EXPECT_EQ(config.optimizer.lr, 1.0);
  EXPECT_THAT(config.activation_checkpoint.units, ElementsAre("block*", "head"));
  EXPECT_EQ(config.training.local_batch_size, Training{}.local_batch_size);
}

TEST(Parse, KnowsWhereEachValueIsFrom) {
  const Config config =
      parse("[training]\n\nsteps = 3\nseq_len = 8\n", "a/x.toml", {"--training.seq_len", "16"});
  EXPECT_EQ(where(config, "training.steps"), "a/x.toml:3: ");
  EXPECT_EQ(where(config, "training.seq_len"), "command line: ");
  EXPECT_EQ(where(config, "training.epochs"), "");
}

TEST(Parse, UnknownNamesGiveFileLineAndNearest) {
  EXPECT_THAT(parse_error("[training]\nstepz = 1\n"),
              HasSubstr("x.toml:2: unknown key in [training] 'stepz': did you mean 'steps'? known: "
                        "balance_classes, class_weights, dataset, "));
  EXPECT_THAT(parse_error("\n[trainin]\nsteps = 1\n"),
              HasSubstr("x.toml:3: unknown section 'trainin': did you mean 'training'?"));
  EXPECT_THAT(parse_error("[trainin]\n"), HasSubstr("x.toml:1: unknown section 'trainin'"));
  EXPECT_THAT(parse_error("[training]\nlr = 1\n"), HasSubstr("(optimizer.lr is a key)"));
  EXPECT_THAT(parse_error(kSmall, {"--training.stepz=1"}),
              HasSubstr("command line: unknown key in [training] 'stepz'"));
  EXPECT_THAT(parse_error("steps = 1\n"), HasSubstr("x.toml:1: 'steps' stands outside every section"));
  EXPECT_THAT(parse_error("[training]\n[training.deep]\nx = 1\n"),
              HasSubstr("unknown key in [training] 'deep'"));
}

TEST(Parse, ATorchtitanKeyThatHasNoPlaceSaysWhatDoesItsWork) {
  EXPECT_THAT(parse_error("[training]\nsteps = 1\n[comm]\ntrace_buf_size = 20000\n"),
              HasSubstr("x.toml:4: comm.trace_buf_size: furrow keeps no trace of collectives"));
  EXPECT_THAT(parse_error(kSmall, {"--comm.trace_buf_size=0"}),
              HasSubstr("command line: comm.trace_buf_size: furrow keeps no trace of collectives"));
}

// As torchtitan writes the modules of a stage.
TEST(Parse, AListOfListsOfStringsIsOneOfWords) {
  const Config config = parse(
      "[training]\nsteps = 10\n[parallelism]\npipeline_parallel_degree = 3\n"
      "module_fqns_per_model_part = [[\"wte\", \"h.0\"], [], \"h.1\"]\n",
      "x.toml");
  EXPECT_EQ(config.parallelism.module_fqns_per_model_part, (std::vector<std::string>{"wte h.0", "", "h.1"}));
}

TEST(Parse, OtherListsHoldNoLists) {
  EXPECT_THAT(parse_error("[training]\nsteps = 10\n[model]\nunits = [[\"a:\", \"linear\"], \"b\"]\n"),
              HasSubstr("x.toml:4: model.units must be a list of strings, not a list of lists"));
}

TEST(Parse, StagesAreCutByHandInOneWay) {
  EXPECT_THAT(
      parse_error("[training]\nsteps = 10\n[parallelism]\npipeline_parallel_degree = 2\n"
                  "module_fqns_per_model_part = [\"a\", \"b\"]\n"
                  "pipeline_parallel_layers_per_stage = 2\n"),
      HasSubstr("module_fqns_per_model_part and parallelism.pipeline_parallel_layers_per_stage both cut the "
                "stages: give one of them"));
}

TEST(Parse, StagesNeedAPipeline) {
  for (const char* stages :
       {"pipeline_parallel_units_per_stage = [1, 2]", "module_fqns_per_model_part = [\"a\"]",
        "pipeline_parallel_layers_per_stage = 2"}) {
    const std::string text = fmt::format("[training]\nsteps = 10\n[parallelism]\n{}\n", stages);
    const std::string key(stages, std::string_view(stages).find(' '));
    EXPECT_THAT(parse_error(text),
                HasSubstr(fmt::format("x.toml:4: parallelism.{} cuts the model into stages, and "
                                      "parallelism.pipeline_parallel_degree is 1: set the ranks of the "
                                      "pipeline there, or leave the stages out",
                                      key)));
    EXPECT_NO_THROW(parse(text, "x.toml", {"--parallelism.pipeline_parallel_degree=2"}));
  }
}

TEST(Parse, WrongTypesNameTheWantedOne) {
  EXPECT_THAT(parse_error("[training]\nsteps = \"ten\"\n"),
              HasSubstr("x.toml:2: training.steps must be an integer, not \"ten\" (a string)"));
  EXPECT_THAT(parse_error("[training]\nsteps = 1.5\n"), HasSubstr("must be an integer, not 1.5 (a number)"));
  EXPECT_THAT(parse_error("[optimizer]\nlr = true\n"), HasSubstr("must be a number, not true"));
  EXPECT_THAT(parse_error("[model]\nhidden = 3\n"), HasSubstr("must be a list of integers, not 3"));
  EXPECT_THAT(parse_error("[model]\nhidden = [1, \"a\"]\n"), HasSubstr("not a list of mixed types"));
  EXPECT_THAT(parse_error("[model]\nhidden = [1.5]\n"),
              HasSubstr("must be a list of integers, not [1.5] (a list of numbers)"));
  EXPECT_THAT(parse_error("[model]\nunits = [[1, 2]]\n"), HasSubstr("neither a number nor a string"));
  EXPECT_THAT(parse_error("[training]\nsteps = 2020-01-01\n"), HasSubstr("not a date or time"));
  EXPECT_THAT(parse_error("[training]\nsteps = {a = 1}\n"), HasSubstr("not a table"));
  EXPECT_THAT(parse_error(kSmall, {"--training.steps", "ten"}),
              HasSubstr("command line: training.steps must be an integer, not 'ten'"));
  EXPECT_THAT(parse_error(kSmall, {"--optimizer.lr="}), HasSubstr("optimizer.lr must be a number, not ''"));
}

TEST(Parse, RangesAndChoicesAreChecked) {
  EXPECT_THAT(parse_error("[optimizer]\nlr = 0\n"),
              HasSubstr("x.toml:2: optimizer.lr = 0 is out of range: it must be above 0"));
  EXPECT_THAT(parse_error("[data]\nvalidation_fraction = 1.0\n"),
              HasSubstr("it must be at least 0 and below 1"));
  EXPECT_THAT(parse_error("[optimizer]\nlr = nan\n"), HasSubstr("out of range"));
  EXPECT_THAT(parse_error("[optimizer]\nlr = inf\n"), HasSubstr("out of range"));
  EXPECT_THAT(parse_error("[model]\nhidden = [8, 0]\n"), HasSubstr("model.hidden = 0 is out of range"));
  EXPECT_THAT(parse_error("[optimizer]\nname = \"adamv\"\n"),
              HasSubstr("x.toml:2: unknown optimizer.name 'adamv': did you mean 'adam'? known: "
                        "adafactor, adam, adamw, adamw8bit, lamb, lion, muon, sgd"));
  EXPECT_THAT(parse_error("[training]\ndtype = \"bfloat16\"\n"), HasSubstr("known: float32"));
}

TEST(Parse, TextThatIsNotTomlNamesTheLine) {
  EXPECT_THAT(parse_error("[training]\nsteps = \n"), HasSubstr("x.toml:2: not TOML: "));
  EXPECT_THAT(parse_error("[training]\nsteps = 1\nsteps = 2\n"), HasSubstr("x.toml:3: not TOML: "));
  EXPECT_THAT(parse_error("[job]\ndescription = \"\xff\"\n"), HasSubstr("not TOML"));
}

TEST(Load, MissingFileIsNotFound) {
  EXPECT_THAT(message_of([] { load("/no/such/file.toml"); }, ErrorCode::kNotFound),
              HasSubstr("/no/such/file.toml"));
}

TEST(Load, AFolderIsNoConfig) {
  const char* root = std::getenv("FURROW_SOURCE_DIR");
  const std::string folder = std::string(root == nullptr ? "." : root) + "/examples";
  EXPECT_THAT(message_of([&] { load(folder); }, ErrorCode::kNotFound),
              AllOf(HasSubstr("is a folder, neither a config file nor a run"),
                    HasSubstr("such as " + folder + "/blocks-custom.toml")));
}

// Every example parses, has no setting without effect, and survives its own text form.
TEST(Load, ExamplesAreValid) {
  const char* root = std::getenv("FURROW_SOURCE_DIR");
  int examples = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(root == nullptr ? "." : root) + "/examples")) {
    if (entry.path().extension() != ".toml") continue;
    const Config config = load(entry.path().string());
    EXPECT_THAT(ignored_settings(config), IsEmpty()) << entry.path();
    EXPECT_EQ(parse(to_toml(config), "again"), config) << entry.path();
    ++examples;
  }
  EXPECT_GE(examples, 4);
}

TEST(Environment, ExpandsWithAndWithoutDefault) {
  ::setenv("FURROW_TEST_ROOT", "/data", 1);
  ::unsetenv("FURROW_TEST_UNSET");
  const auto path = [](const std::string& text) {
    return parse("[training]\nsteps = 1\ndataset_path = '" + text + "'\n", "x.toml").training.dataset_path;
  };
  EXPECT_EQ(path("${FURROW_TEST_ROOT}/mnist"), "/data/mnist");
  EXPECT_EQ(path("${FURROW_TEST_UNSET:-fallback}/mnist"), "fallback/mnist");
  EXPECT_EQ(path("${FURROW_TEST_UNSET:-}x"), "x");
  EXPECT_EQ(path("${FURROW_TEST_UNSET:-${FURROW_TEST_ROOT:-data}/x}/y"), "/data/x/y");
  EXPECT_EQ(path("${FURROW_TEST_UNSET:-${FURROW_TEST_UNSET:-data}/x}/y"), "data/x/y");
  EXPECT_EQ(path("${FURROW_TEST_ROOT:-${FURROW_TEST_UNSET}}"), "/data");
  EXPECT_EQ(path("a$b $${HOME} $$"), "a$b ${HOME} $$");
  EXPECT_THAT(message_of([&] { path("${FURROW_TEST_UNSET:-${oops}"); }), HasSubstr("no closing brace"));
  EXPECT_EQ(path("${FURROW_TEST_UNSET:-$${x}/y"), "${x/y");
  std::string deep = "x";
  for (int i = 0; i < 9; ++i) deep = "${FURROW_TEST_UNSET:-" + deep + "}";
  EXPECT_THAT(message_of([&] { path(deep); }), HasSubstr("too many defaults inside each other"));
  EXPECT_THAT(message_of([&] { path("${FURROW_TEST_UNSET}/x"); }),
              HasSubstr("x.toml:3: environment variable FURROW_TEST_UNSET is not set"));
  EXPECT_THAT(message_of([&] { path("${oops"); }), HasSubstr("no closing brace"));
  EXPECT_THAT(message_of([&] { path("${}"); }), HasSubstr("names no environment variable"));
}

TEST(Overrides, TakeBothFormsAndEveryType) {
  const Config config = parse(kSmall, "x.toml",
                              {"--training.global_batch_size", "-1", "--optimizer.lr=0.05", "--model.hidden",
                               "[4, 5]", "--job.print_config", "--metrics.enable_plots", "false",
                               "--activation_checkpoint.units=block*,head", "--job.description=a = b"});
  EXPECT_EQ(config.training.global_batch_size, -1);
  EXPECT_EQ(config.optimizer.lr, 0.05);
  EXPECT_EQ(config.model.hidden, (std::vector<int64_t>{4, 5}));
  EXPECT_TRUE(config.job.print_config);
  EXPECT_FALSE(config.metrics.enable_plots);
  EXPECT_THAT(config.activation_checkpoint.units, ElementsAre("block*", "head"));
  EXPECT_EQ(config.job.description, "a = b");
  EXPECT_EQ(parse(kSmall, "x", {"--model.hidden", ""}).model.hidden, std::vector<int64_t>{});
}

TEST(Overrides, ErrorsSayWhatToWrite) {
  EXPECT_THAT(parse_error(kSmall, {"--training.steps"}), HasSubstr("--training.steps needs a value"));
  EXPECT_THAT(parse_error(kSmall, {"--training.steps", "--job.print_config"}), HasSubstr("needs a value"));
  EXPECT_THAT(parse_error(kSmall, {"steps"}), HasSubstr("'steps' is no setting"));
  EXPECT_THAT(parse_error(kSmall, {"--model.hidden=1,x"}), HasSubstr("a list of integers, not '1,x'"));
}

TEST(Overrides, AreTakenFromACommandLine) {
  std::vector<std::string> words = {
      "x.toml", "--resume", "--training.steps", "5", "--job.print_config", "--json", "--optimizer.lr=1"};
  EXPECT_THAT(take_overrides(words),
              ElementsAre("--training.steps=5", "--job.print_config=true", "--optimizer.lr=1"));
  EXPECT_THAT(words, ElementsAre("x.toml", "--resume", "--json"));
  EXPECT_FALSE(is_override("--resume"));
  EXPECT_FALSE(is_override("--out=a.b"));
  EXPECT_FALSE(is_override("a.b"));
}

TEST(Length, StepsOnTheCommandLineReplaceEpochsOfTheFile) {
  const Config steps = parse("[training]\nepochs = 10\n", "x", {"--training.steps", "500"});
  EXPECT_EQ(steps.training.steps, 500);
  EXPECT_EQ(steps.training.epochs, 0);
  EXPECT_EQ(parse("[training]\nsteps = 10\n", "x", {"--training.epochs=0.5"}).training.steps, 0);
}

TEST(Validate, BatchArithmeticShowsTheSum) {
  EXPECT_THAT(
      parse_error("[training]\nsteps = 1\nlocal_batch_size = 32\nglobal_batch_size = 16\n"),
      HasSubstr("x.toml:4: global_batch_size 16 is less than one microbatch: lower local_batch_size 32 "
                "to 16"));
  EXPECT_THAT(parse_error("[training]\nsteps = 1\nglobal_batch_size = 0\n"),
              HasSubstr("global_batch_size is 0"));
  for (const int global : {32, 96, 100}) {
    EXPECT_NO_THROW(parse(
        fmt::format("[training]\nsteps = 1\nlocal_batch_size = 32\nglobal_batch_size = {}\n", global), "x"));
  }
  EXPECT_EQ(global_batch_size(parse(kSmall, "x").training, 4), 4 * 64);
}

TEST(Validate, ABatchThatDependsOnRanksIsSaid) {
  Training training;
  training.local_batch_size = 12;
  EXPECT_EQ(batch_by_ranks(training, 1), "");
  EXPECT_THAT(batch_by_ranks(training, 4), AllOf(HasSubstr("the recipe depends on the number of ranks"),
                                                 HasSubstr("--training.global_batch_size 48")));
  training.global_batch_size = 48;
  EXPECT_EQ(batch_by_ranks(training, 4), "");
}

TEST(Validate, ImpossibleCombinationsAreNamed) {
  const std::string gpt =
      "[training]\nsteps = 9\nseq_len = 64\ndataset = \"text\"\n[model]\nname = \"gpt\"\n";
  EXPECT_NO_THROW(parse(gpt, "x"));
  EXPECT_THAT(parse_error(gpt + "heads = 3\n"),
              HasSubstr("x.toml:7: model.width 128 = 42 x model.heads 3 + 2"));
  EXPECT_THAT(parse_error(gpt + "context = 32\n"),
              HasSubstr("training.seq_len 64 is longer than model.context 32"));
  const std::string llama =
      "[training]\nsteps = 9\nseq_len = 64\ndataset = \"text\"\n[model]\nname = \"llama\"\n";
  EXPECT_NO_THROW(parse(llama + "kv_heads = 2\n", "x"));
  EXPECT_THAT(parse_error(llama + "kv_heads = 3\n"), HasSubstr("kv_heads must divide heads"));
  EXPECT_THAT(parse_error(llama + "heads = 3\n"), HasSubstr("heads must divide width"));
  EXPECT_NO_THROW(parse(llama + "heads = 3\nhead_dim = 16\n", "x"));
  EXPECT_THAT(parse_error(gpt + "heads = 3\nhead_dim = 16\n"), HasSubstr("heads must divide width"));
  EXPECT_THAT(parse_error("[training]\nsteps = 9\n[model]\nname = \"lstm\"\n"),
              HasSubstr("model.name = lstm reads text: set training.dataset = text, or a pack"));
  EXPECT_THAT(parse_error("[training]\nsteps = 9\n[model]\nname = \"gpt\"\n"),
              HasSubstr("set training.dataset = text"));
  EXPECT_THAT(parse_error("[training]\nsteps = 9\ndataset = \"text\"\n[model]\nname = \"convnet\"\n"),
              HasSubstr("reads images: set training.dataset = idx, cifar10, folder, or a pack"));
  EXPECT_THAT(parse_error("[training]\nsteps = 9\ndataset = \"text\"\n"),
              HasSubstr("reads numbers, not text: set training.dataset = idx, cifar10, folder, table"));
  const std::string folder = "[training]\nsteps = 9\ndataset = \"folder\"\n[data]\ncrop_size = 224\n";
  EXPECT_NO_THROW(parse(folder + "resize_size = 256\nrandom_resized_crop = true\n", "x"));
  EXPECT_THAT(parse_error(folder + "resize_size = 200\n"),
              HasSubstr("x.toml:6: data.crop_size 224 is more than data.resize_size 200 leaves"));
  EXPECT_THAT(
      parse_error(folder + "random_resized_crop = true\nrandom_resized_crop_max_scale = 0.05\n"),
      HasSubstr("data.random_resized_crop_min_scale 0.08 is more than random_resized_crop_max_scale"));
  EXPECT_THAT(
      parse_error(folder + "random_resized_crop = true\nrandom_resized_crop_max_ratio = 0.5\n"),
      HasSubstr("data.random_resized_crop_min_ratio 0.75 is more than random_resized_crop_max_ratio"));
  EXPECT_THAT(
      parse_error("[training]\nsteps = 9\n[comm]\nbackend = \"nccl\"\n"),
      HasSubstr("x.toml:4: comm.backend = nccl moves memory of GPUs, and training.device = cpu has none"));
  EXPECT_THAT(
      parse_error("[training]\nsteps = 9\nenable_cpu_offload = true\n"),
      HasSubstr("x.toml:3: training.enable_cpu_offload = true keeps optimizer state out of a device's"));
  EXPECT_NO_THROW(parse("[training]\nsteps = 9\ndevice = \"cuda\"\nenable_cpu_offload = true\n", "x"));
  EXPECT_NO_THROW(parse("[training]\nsteps = 9\ndevice = \"cuda\"\n[comm]\nbackend = \"nccl\"\n", "x"));
  EXPECT_THAT(parse_error(gpt + "[data]\nvalidation_fraction = 0.6\ntest_fraction = 0.4\n"),
              HasSubstr("nothing to train on"));
  EXPECT_NO_THROW(parse("[training]\nsteps = 1\n[parallelism]\nbucket_cap_mb = -1\n", "x"));
  EXPECT_THAT(parse_error("[training]\nsteps = 1\n[parallelism]\nbucket_cap_mb = -0.5\n"),
              HasSubstr("x.toml:4: parallelism.bucket_cap_mb is -0.5: write -1"));
  EXPECT_THAT(parse_error("[training]\n"), HasSubstr("how long to train is missing"));
  EXPECT_THAT(parse_error("[training]\nsteps = 1\nepochs = 2\n"),
              HasSubstr("x.toml:2: training.steps = 1 and training.epochs = 2 are both set"));
  EXPECT_THAT(parse_error("[training]\nsteps = 5\n[lr_scheduler]\nwarmup_steps = 6\n"),
              HasSubstr("warmup_steps 6 is more"));
  EXPECT_THAT(parse_error("[training]\nsteps = 5\n[optimizer]\nname = \"sgd\"\nnesterov = true\n"),
              HasSubstr("nesterov needs"));
  EXPECT_THAT(
      parse_error("[training]\nsteps = 5\n[lr_scheduler]\ndecay_type = \"one_cycle\"\nmax_momentum = 0.5\n"),
      HasSubstr("base_momentum 0.85 is above max_momentum 0.5"));
}

TEST(Validate, ABudgetOfDataThatAreNotStreamedIsSaidOnce) {
  const auto lines = [](const char* kind) {
    return ignored_settings(parse(fmt::format("[training]\nsteps = 5\ndataset = \"{}\"\n", kind), "x.toml",
                                  {"--data.memory_budget", "256MiB"}));
  };
  EXPECT_THAT(lines("idx"), ElementsAre(AllOf(HasSubstr("data.memory_budget = \"256MiB\" bounds the batches"),
                                              HasSubstr("furrow data pack"))));
  EXPECT_THAT(lines("pack"), IsEmpty());
}

TEST(Validate, SettingsWithoutEffectAreListed) {
  const Config config = parse("[training]\nsteps = 5\n[optimizer]\nmomentum = 0.9\nbeta2 = 0.95\n", "x.toml");
  EXPECT_THAT(
      ignored_settings(config),
      ElementsAre("x.toml:4: optimizer.momentum = 0.9 has no effect: it needs optimizer.name=sgd|muon or "
                  "optimizer.groups~name=sgd|name=muon"));
  EXPECT_THAT(ignored_settings(parse(to_toml(config), "y", {"--optimizer.name=sgd"})), IsEmpty());
  const Config pipeline = parse(
      "[training]\nsteps = 5\n[parallelism]\npipeline_parallel_schedule = \"GPipe\"\n"
      "pipeline_parallel_stages_per_rank = 1\npipeline_parallel_last_stage_less_layers = 0\n",
      "x.toml");
  const std::string weight =
      "x.toml:6: parallelism.pipeline_parallel_last_stage_less_layers = 0 has no effect: it needs "
      "parallelism.pipeline_parallel_layers_per_stage>0";
  EXPECT_THAT(ignored_settings(pipeline),
              ElementsAre("x.toml:4: parallelism.pipeline_parallel_schedule = \"GPipe\" has no effect: it "
                          "needs parallelism.pipeline_parallel_degree>1",
                          "x.toml:5: parallelism.pipeline_parallel_stages_per_rank = 1 has no effect: it "
                          "needs parallelism.pipeline_parallel_degree>1",
                          weight));
  const std::string degree = "--parallelism.pipeline_parallel_degree=2",
                    layers = "--parallelism.pipeline_parallel_layers_per_stage=3";
  EXPECT_THAT(ignored_settings(parse(to_toml(pipeline), "y", {degree, layers})), IsEmpty());
}

// Of [comm] under backends that are not furrow's own: refused where it would mean nothing, said where it
// means less than it seems.
TEST(Validate, SettingsOfOwnWiresUnderAnotherBackend) {
  const auto text = [](const char* backend, const char* setting) {
    return fmt::format("[training]\nsteps = 5\ndevice = \"cuda\"\n[comm]\nbackend = \"{}\"\n{}\n", backend,
                       setting);
  };
  for (const auto& [backend, setting] : {std::pair{"mpi", "throttle = \"1Gbit\""},
                                         {"mpi", "algorithm = \"ring\""},
                                         {"nccl", "throttle = \"1Gbit\""}}) {
    EXPECT_THAT(parse_error(text(backend, setting)),
                AllOf(HasSubstr("x.toml:5: comm."), HasSubstr(fmt::format("comm.backend is {}", backend))))
        << backend << " " << setting;
  }
  const auto said = [&](const char* backend) {
    return ignored_settings(parse(text(backend, "algorithm = \"ring\""), "x.toml"));
  };
  EXPECT_THAT(said("nccl"),
              ElementsAre(HasSubstr("x.toml:6: comm.algorithm = \"ring\" is for memory of the host")));
  EXPECT_THAT(said("native"), IsEmpty());
}

TEST(ToToml, RoundTripsEveryKey) {
  const Config plain = parse(kSmall, "x");
  EXPECT_EQ(parse(to_toml(plain), "y"), plain);
  Config odd = parse(kSmall, "x",
                     {"--optimizer.lr=1e-7", "--job.description=quote \" back \\ tab \t ${HOME:-x} $ ü",
                      "--model.hidden=7", "--activation_checkpoint.units=a*,b",
                      "--lr_scheduler.final_div_factor=10000", "--training.max_norm=0.1"});
  odd.job.description += " ${NOT_SET} $${x} \x7f\n";
  const Config back = parse(to_toml(odd), "y");
  EXPECT_EQ(back, odd) << to_toml(odd);
  EXPECT_EQ(to_toml(back), to_toml(odd));
  odd.debug.seed += 1;
  EXPECT_FALSE(back == odd);
}

TEST(ToToml, OneSectionAlone) {
  EXPECT_THAT(section_toml(Config{}, "metrics"),
              testing::StartsWith("log_freq = 10\nenable_tensorboard = false\n"));
  EXPECT_EQ(section_toml(Config{}, "none"), "");
}

TEST(ToToml, WritesEveryKeyOnce) {
  const std::string text = to_toml(Config{});
  for (const Section& section : schema()) {
    EXPECT_THAT(text, HasSubstr("[" + section.name + "]\n"));
    for (const Field& field : section.fields) {
      EXPECT_THAT(text, HasSubstr("\n" + field.key + " = " + to_toml(field.default_value) + "\n"));
    }
  }
}

TEST(Recipe, HoldsWhatChangesTheMathematics) {
  const Config config = parse(kSmall, "x");
  const Recipe recipe = recipe_of(config);
  EXPECT_TRUE(std::is_sorted(recipe.begin(), recipe.end()));
  const auto has = [&](const std::string& name) {
    return std::any_of(recipe.begin(), recipe.end(), [&](const auto& row) { return row.first == name; });
  };
  for (const char* name :
       {"training.local_batch_size", "training.threads", "optimizer.lr", "debug.seed", "model.name"}) {
    EXPECT_TRUE(has(name)) << name;
  }
  for (const char* name :
       {"job.dump_folder", "parallelism.tensor_parallel_degree", "activation_checkpoint.mode",
        "data.prefetch_batches", "checkpoint.interval", "training.dataset_path"}) {
    EXPECT_FALSE(has(name)) << name;
  }
}

TEST(Recipe, DifferencesAreNamed) {
  const Config a = parse(kSmall, "x"), b = parse(kSmall, "x", {"--optimizer.lr=0.5", "--job.description=z"});
  EXPECT_THAT(recipe_difference(recipe_of(a), recipe_of(a)), IsEmpty());
  EXPECT_THAT(recipe_difference(recipe_of(a), recipe_of(b)),
              ElementsAre("optimizer.lr: 0.0008 in the checkpoint, 0.5 now"));
  EXPECT_THAT(recipe_difference({{"a", "1"}, {"b", "2"}}, {{"b", "2"}, {"c", "3"}}),
              ElementsAre("a: 1 in the checkpoint, unknown now", "c: not in the checkpoint, 3 now"));
}

// The declarations themselves: defaults obey their own rules, conditions name keys and their choices.
TEST(Schema, IsConsistent) {
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      EXPECT_NO_THROW(check_value(field, field.default_value, "")) << field.name();
      EXPECT_NO_THROW(applies(field, Config{})) << field.name();
      EXPECT_FALSE(field.spec.doc.empty()) << field.name();
      EXPECT_EQ(find_field(field.name()), &field);
      Config config;
      field.set(config, field.default_value);
      EXPECT_EQ(field.get(config), field.default_value);
    }
  }
  EXPECT_EQ(schema().size(), 18u);
}

TEST(Objectives, SayWhatTheyNeed) {
  const auto with = [](std::initializer_list<std::string> changes) {
    std::vector<std::string> arguments = {"--model.name=gan", "--training.objective=gan",
                                          "--validation.enable=false", "--data.normalize=false"};
    arguments.insert(arguments.end(), changes);
    return parse_error(kSmall, arguments);
  };
  EXPECT_NO_THROW(parse(kSmall, "x.toml",
                        {"--model.name=gan", "--training.objective=gan", "--validation.enable=false",
                         "--data.normalize=false"}));
  EXPECT_THAT(with({"--training.objective=supervised"}), HasSubstr("set training.objective = gan"));
  EXPECT_THAT(with({"--model.name=mlp"}), HasSubstr("set model.name = gan"));
  EXPECT_THAT(with({"--validation.enable=true"}), HasSubstr("set validation.enable = false"));
  EXPECT_THAT(with({"--data.normalize=true"}), HasSubstr("set data.normalize = false"));
  EXPECT_THAT(parse_error(kSmall, {"--training.objective=distillation"}),
              HasSubstr("set distillation.teacher to a run's model/"));
  EXPECT_THAT(parse_error(kSmall, {"--training.objective=distillation", "--distillation.teacher=t",
                                   "--training.loss=mse"}),
              HasSubstr("compares classes"));
}

TEST(Losses, OfTokensAreCrossEntropies) {
  const auto error = [](const char* loss, const char* model) {
    return parse_error(kSmall, {std::string("--training.loss=") + loss, std::string("--model.name=") + model,
                                "--training.dataset=text"});
  };
  EXPECT_THAT(error("mse", "gpt"),
              HasSubstr("mse compares numbers, and model.name = gpt gives the next token"));
  EXPECT_THAT(error("binary", "lstm"), HasSubstr("binary tells two classes apart, and model.name = lstm"));
  EXPECT_THAT(error("mse", "blocks"), HasSubstr("and training.dataset = text gives the next token"));
  EXPECT_NO_THROW(parse(kSmall, "x", {"--training.loss=mse", "--model.name=mlp", "--training.dataset=idx"}));
}

TEST(ClassWeights, AreNumbersOrBalanced) {
  const std::string list = "[training]\nsteps = 9\nclass_weights = [0.5, 2, 0]\n";
  const Config config = parse(list, "x.toml");
  EXPECT_THAT(config.training.class_weights, ElementsAre(0.5, 2, 0));
  EXPECT_EQ(parse(to_toml(config), "x.toml"), config);
  const auto given = [](const char* word) {
    return parse(kSmall, "x", {std::string("--training.class_weights=") + word}).training.class_weights;
  };
  EXPECT_THAT(given("[1, 2.5]"), ElementsAre(1, 2.5));
  EXPECT_THAT(given("3,4"), ElementsAre(3, 4));
  EXPECT_THAT(given(""), ElementsAre());
  EXPECT_THAT(parse("[training]\nsteps = 9\nclass_weights = [1, 2]\n", "x").training.class_weights,
              ElementsAre(1, 2));
  EXPECT_THAT(parse("[training]\nsteps = 9\nclass_weights = []\n", "x").training.class_weights,
              ElementsAre());
  EXPECT_THAT(parse_error("[training]\nsteps = 9\nclass_weights = [1, \"two\"]\n"),
              HasSubstr("must be a list of numbers, not a list of mixed types"));
  EXPECT_THAT(parse_error("[model]\nhidden = [8, 1.5]\n"), HasSubstr("must be a list of integers"));
  EXPECT_THAT(parse_error(kSmall, {"--training.class_weights=1,-2"}), HasSubstr("must be at least 0"));
  EXPECT_THAT(parse_error(kSmall, {"--training.class_weights=1,x"}), HasSubstr("a list of numbers"));
  EXPECT_THAT(parse_error(kSmall, {"--training.class_weights=0,0"}), HasSubstr("are all 0"));
  EXPECT_THAT(parse_error(list + "balance_classes = true\n"), HasSubstr("leave out one of them"));
  EXPECT_THAT(
      parse_error(kSmall, {"--training.balance_classes", "--training.dataset=text", "--model.name=gpt"}),
      HasSubstr("tokens are none"));
  EXPECT_THAT(parse_error(kSmall, {"--training.balance_classes", "--training.objective=distillation",
                                   "--distillation.teacher=t"}),
              HasSubstr("training.objective = distillation does not"));
  EXPECT_THAT(parse_error(kSmall, {"--training.pos_weight=0"}), HasSubstr("above 0"));
}

TEST(ModelContext, IsSeqLenWhereUnset) {
  EXPECT_EQ(model_context(parse(kSmall, "x", {"--training.seq_len=48"})), 48);
  EXPECT_EQ(model_context(parse(kSmall, "x", {"--model.context=96"})), 96);
}

}  // namespace
}  // namespace furrow::config
