// The pictures of whole runs: what they show is what evaluation says.
#include "furrow/observe/pictures.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <regex>

#include "furrow/base/file.h"
#include "furrow/models/network.h"
#include "furrow/train/pictures_torch.h"
#include "furrow/train/run_torch.h"
#include "furrow/train/session.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/training_runs_torch.h"

namespace furrow::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

struct ArtifactSink : observe::Sink {
  void begin(const std::string&, const std::string&, int64_t) override {}
  void log(const observe::StepRecord&) override {}
  void artifact(const std::string& name, const std::string& path) override {
    EXPECT_TRUE(path_exists(path)) << path;
    names.push_back(name);
  }
  void end(const std::string&) override {}
  std::vector<std::string> names;
};

class Pictures : public ::testing::Test, protected testing::TrainingRuns {
 protected:
  observe::Summary train_on(const std::string& name, int ranks, const std::string& text,
                            const std::vector<std::string>& more = {}) {
    observe::Summary summary;
    sink_.names.clear();
    testing::run_ranks(ranks,
                       [&](comm::Communicator& communicator) {
                         TrainRequest request;
                         request.config = config::parse(text, "pictures_test", more);
                         if (communicator.rank() == 0) {
                           request.run_folder = run(name);
                           request.sinks = {&sink_};
                         }
                         if (ranks > 1) request.communicator = &communicator;
                         const observe::Summary own = train(request);
                         if (communicator.rank() == 0) summary = own;
                       },
                       {.timeout_ms = testing::kPatienceMs});
    return summary;
  }
  std::string file(const std::string& name, const char* picture) const {
    return read_file(run(name) + "/" + picture);
  }

  std::string images() {
    const std::string folder = made_up_images(300, 90);
    return "[model]\nname = \"mlp\"\nhidden = [32]\n[training]\nlocal_batch_size = 8\nglobal_batch_size = "
           "16\n"
           "steps = 12\nthreads = 1\ndataset_path = \"" +
           folder + "\"\n[optimizer]\nlr = 1e-2\n";
  }

  std::string language() {
    std::string words;
    for (int i = 0; i < 3000; ++i)
      words += i % 7 == 0 ? "\n" : std::string(1, static_cast<char>('a' + i * i % 11));
    write_file_atomic(folder_.path() + "/t.txt", words);
    return "[model]\nname = \"gpt\"\nlayers = 1\nheads = 2\nwidth = 16\n[training]\ndataset = "
           "\"text\"\nseq_len = 24\nlocal_batch_size = 4\nsteps = 4\nthreads = 1\ndataset_path = \"" +
           folder_.path() + "/t.txt\"\n[optimizer]\nname = \"adamw\"\n";
  }

  ArtifactSink sink_;
};

TEST_F(Pictures, OfAClassifierShowWhatTheTestSays) {
  const std::string text = images();
  const observe::Summary summary = train_on("a", 1, text);
  EXPECT_THAT(sink_.names, ElementsAre("confusion.svg", "samples.svg"));
  const std::string svg = file("a", "confusion.svg");
  // The counts of the cells add up to the test split, those on the diagonal to the right answers.
  int64_t all = 0;
  const std::regex cell(" y=\"[0-9.]+\" text-anchor=\"middle\"(?: fill=\"#fff\")?>([0-9]+)</text>");
  for (std::sregex_iterator it(svg.begin(), svg.end(), cell), end; it != end; ++it)
    all += std::stol((*it)[1]);
  int64_t columns = 0;  // the classes above the columns match too
  for (int64_t c = 0; c < 10; ++c) columns += c;
  EXPECT_EQ(all - columns, 90);
  const std::string grid = file("a", "samples.svg");
  int64_t wrong = 0, shown = 0;
  for (size_t at = grid.find("<image"); at != std::string::npos; at = grid.find("<image", at + 1)) ++shown;
  for (size_t at = grid.find(", not "); at != std::string::npos; at = grid.find(", not ", at + 1)) ++wrong;
  EXPECT_EQ(shown, 32);
  EXPECT_LE(wrong, 90 - static_cast<int64_t>(*summary.test_accuracy * 90 + 0.5));

  train_on("sharded", 2, text, {"--parallelism.data_parallel_shard_degree", "2"});
  EXPECT_EQ(file("sharded", "confusion.svg"), svg);
  EXPECT_EQ(file("sharded", "samples.svg"), grid);
  train_on("more", 1, text, {"--training.steps", "3"});
  EXPECT_NE(file("more", "confusion.svg"), svg);  // control
}

TEST_F(Pictures, AreLeftOutWithoutPlots) {
  train_on("a", 1, images(), {"--metrics.enable_plots=false"});
  EXPECT_THAT(sink_.names, IsEmpty());
  EXPECT_FALSE(path_exists(run("a") + "/confusion.svg"));
}

TEST_F(Pictures, OfALanguageModelAreItsText) {
  const std::string text = language(), words = read_file(folder_.path() + "/t.txt");
  for (const std::string model : {"gpt", "llama", "lstm"}) {
    const std::vector<std::string> more = {"--model.name", model};
    train_on(model, 1, text, more);
    EXPECT_THAT(sink_.names, ElementsAre("samples.txt"));
    const std::string written = file(model, "samples.txt");
    EXPECT_THAT(written, StartsWith("prompt, 16 tokens of the held-back text:\n" + words.substr(2700, 16)));
    EXPECT_EQ(written.size() - written.find("0.8:\n") - 5, 256u + 1);
    train_on(model + "_again", 1, text, more);
    EXPECT_EQ(file(model + "_again", "samples.txt"), written);
    train_on(model + "_seed", 1, text, {"--model.name", model, "--debug.seed", "9"});
    EXPECT_NE(file(model + "_seed", "samples.txt"), written);
  }
}

// A vocabulary rounded up has scores that no token of the text goes with.
TEST_F(Pictures, OfALanguageModelAreDrawnFromTheTokensOfTheText) {
  train_on("padded", 1, language(), {"--model.vocab_size", "512"});
  EXPECT_THAT(sink_.names, ElementsAre("samples.txt"));
  const std::string written = file("padded", "samples.txt");
  EXPECT_EQ(written.size() - written.find("0.8:\n") - 5, 256u + 1);
}

// Documents of a few letters, each ended by the tokenizer's own token.
TEST_F(Pictures, OfALanguageModelEndWithTheDocument) {
  std::string documents;
  for (int i = 0; i < 600; ++i) documents += i % 3 == 0 ? "low;" : "er;";
  write_file_atomic(folder_.path() + "/d.txt", documents);
  write_file_atomic(folder_.path() + "/merges.txt", "#version: 0.2\nl o\nlo w\ne r\n");
  const std::vector<std::string> more = {"--training.dataset_path",
                                         folder_.path() + "/d.txt",
                                         "--training.steps",
                                         "40",
                                         "--optimizer.lr",
                                         "0.01",
                                         "--data.tokenizer",
                                         "gpt2",
                                         "--data.tokenizer_path",
                                         folder_.path() + "/merges.txt",
                                         "--data.document_separator",
                                         ";"};
  train_on("plain", 1, language(), more);
  EXPECT_THAT(file("plain", "samples.txt"), HasSubstr("written, 256 tokens"));
  std::vector<std::string> ended = more;
  ended.insert(ended.end(), {"--data.document_tokens", "end"});
  train_on("ended", 1, language(), ended);
  EXPECT_THAT(file("ended", "samples.txt"), ::testing::EndsWith("<|endoftext|>\n"));
  EXPECT_THAT(file("ended", "samples.txt"), ::testing::Not(HasSubstr("written, 256 tokens")));
}

TEST_F(Pictures, OfALanguageModelEndWhereTheyCostTooMuch) {
  const config::Config config = config::parse(language(), "pictures_test");
  const data::Dataset dataset = data::open_dataset(config);
  ModelState model(models::trained_network(config, shape_of(*dataset.train)), {}, 1);
  double flops = 0;
  for (const plan::Unit& unit : model.spec().units) flops += unit.flops.forward / 24;
  const RankContext rank;
  for (const int64_t tokens : {1, 3, 9}) {
    // Rows of 16, 17, ... 24, 24 tokens: the last one begins where the bound is not passed yet.
    double before = 0;
    for (int64_t t = 0; t + 1 < tokens; ++t)
      before += flops * static_cast<double>(std::min<int64_t>(16 + t, 24));
    draw_pictures({model, dataset, rank, folder_.path(), 4, before * (1 + 1e-9)});
    EXPECT_THAT(read_file(folder_.path() + "/samples.txt"),
                HasSubstr(fmt::format("written, {} tokens at temperature", tokens)));
  }
}

}  // namespace
}  // namespace furrow::train
