// Whole runs in a folder of their own, for tests of what train() does.
#pragma once

#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/config/config.h"
#include "furrow/observe/summary.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"
#include "tests/testing/run_ranks.h"

namespace furrow::testing {

// A base of fixtures.
class TrainingRuns {
 protected:
  // Images of `side` pixels a side, so many to train and to test on; returns their folder.
  std::string made_up_images(int64_t train = 600, int64_t test = 100, int64_t side = 12) const {
    const std::string folder = folder_.path() + "/data";
    write_made_up_idx(folder, train, test, side);
    return folder;
  }

  // What tiny_gpt() reads.
  void write_made_up_text(int letters = 3000) const {
    std::string text;
    for (int i = 0; i < letters; ++i) text.push_back(static_cast<char>('a' + (i * i / 7 + i) % 13));
    write_file_atomic(folder_.path() + "/text.txt", text);
  }

  // Two blocks with dropout; `settings` are the words of a command line: training.steps among them.
  config::Config tiny_gpt(const std::vector<std::string>& settings) const {
    std::vector<std::string> all = {"--training.dataset_path", folder_.path() + "/text.txt"};
    all.insert(all.end(), settings.begin(), settings.end());
    return config::parse(R"(
      [model]
      name = "gpt"
      layers = 2
      heads = 2
      width = 32
      dropout = 0.1
      [training]
      dataset = "text"
      seq_len = 16
      local_batch_size = 2
      global_batch_size = 16
      threads = 1
      [optimizer]
      name = "adamw"
      lr = 3e-3
      [data]
      prefetch_batches = 0
      [checkpoint]
      interval = 3
      [debug]
      deterministic = "strict"
    )",
                         "tiny_gpt", all);
  }

  std::string run(const std::string& name) const { return folder_.path() + "/" + name; }

  observe::Summary train_run(const std::string& name, const config::Config& config,
                             bool resume = false) const {
    train::TrainRequest request;
    request.config = config;
    request.run_folder = run(name);
    request.resume = resume;
    return train::train(request);
  }

  // On ranks that are threads; the summary of rank 0.
  observe::Summary train_on_ranks(const std::string& name, int ranks, const config::Config& config,
                                  const std::string& backend = "native") const {
    observe::Summary summary;
    run_ranks(ranks,
              [&](comm::Communicator& communicator) {
                train::TrainRequest request;
                request.config = config;
                if (communicator.rank() == 0) request.run_folder = run(name);
                request.communicator = &communicator;
                const observe::Summary own = train::train(request);
                if (communicator.rank() == 0) summary = own;
              },
              {.timeout_ms = kPatienceMs, .backend = backend});
    return summary;
  }

  std::string weights(const std::string& name) const {
    return read_file(run(name) + "/model/model.safetensors");
  }

  TemporaryFolder folder_;
};

}  // namespace furrow::testing
