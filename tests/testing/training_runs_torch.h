// Whole runs in a folder of their own, for tests of what train() does.
#pragma once

#include <string>

#include "furrow/base/file.h"
#include "furrow/config/config.h"
#include "furrow/observe/summary.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/made_up_idx.h"

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

  std::string run(const std::string& name) const { return folder_.path() + "/" + name; }

  observe::Summary train_run(const std::string& name, const config::Config& config,
                             bool resume = false) const {
    train::TrainRequest request;
    request.config = config;
    request.run_folder = run(name);
    request.resume = resume;
    return train::train(request);
  }

  std::string weights(const std::string& name) const {
    return read_file(run(name) + "/model/model.safetensors");
  }

  TemporaryFolder folder_;
};

}  // namespace furrow::testing
