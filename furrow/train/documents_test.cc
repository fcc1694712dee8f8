// Documents that share rows: the losses and gradients of the documents apart, and the same bits on ranks,
// recomputed and resumed.
#include "furrow/data/documents.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/rng.h"
#include "furrow/train/session.h"
#include "tests/testing/child.h"
#include "tests/testing/run_ranks.h"
#include "tests/testing/tiny_training_torch.h"

namespace furrow::train {
namespace {

using ::testing::HasSubstr;
using testing::StepResult;
using testing::TinyTraining;

constexpr int64_t kContext = 8;  // of the tiny networks

// The same documents, each in a row of its own, in the order in which the rows have them.
class Apart : public data::Source {
 public:
  Apart(std::shared_ptr<const data::TokenStore> tokens, const data::PackedRows& rows)
      : tokens_(std::move(tokens)), pieces_(rows.pieces), fields_(data::document_fields(kContext)) {}
  int64_t size() const override { return static_cast<int64_t>(pieces_.size()); }
  const std::vector<data::Field>& fields() const override { return fields_; }
  int64_t classes() const override { return tokens_->vocabulary(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    for (size_t row = 0; row < indices.size(); ++row) {
      const data::DocumentPiece& piece = pieces_[static_cast<size_t>(indices[row])];
      const data::DocumentSource one(tokens_, piece.begin, {piece.begin + piece.count + 1}, kContext);
      std::vector<ArrayView> own(views.begin(), views.end());
      for (ArrayView& view : own) {
        view.shape[0] = 1;
        view.bytes = view.bytes.subspan(row * kContext * sizeof(int64_t), kContext * sizeof(int64_t));
      }
      one.read(std::vector<int64_t>{0}, own);
    }
  }

 private:
  std::shared_ptr<const data::TokenStore> tokens_;
  std::vector<data::DocumentPiece> pieces_;
  std::vector<data::Field> fields_;
};

// Hides the positions: documents run into each other.
class Unmasked : public data::Source {
 public:
  explicit Unmasked(const data::Source& source)
      : source_(source), fields_(source.fields().begin(), source.fields().begin() + 2) {}
  int64_t size() const override { return source_.size(); }
  const std::vector<data::Field>& fields() const override { return fields_; }
  int64_t classes() const override { return source_.classes(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    Array positions(DType::kI64, {static_cast<int64_t>(indices.size()), kContext});
    source_.read(indices, std::vector<ArrayView>{views[0], views[1], positions.view()});
  }

 private:
  const data::Source& source_;
  std::vector<data::Field> fields_;
};

struct Documents {
  std::shared_ptr<const data::Tokens> tokens;
  std::vector<int64_t> ends;
};

Documents made_up(int64_t count, int64_t vocabulary) {
  Documents made;
  std::vector<uint32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    const auto words = philox4x32({1, static_cast<uint32_t>(i), 0, 0}, {3, 4});
    for (uint32_t t = 0; t < 2 + words[0] % kContext; ++t)
      ids.push_back((words[1] + t * words[2] % 7) % static_cast<uint32_t>(vocabulary));
    made.ends.push_back(static_cast<int64_t>(ids.size()));
  }
  made.tokens = std::make_shared<const data::Tokens>(ids, vocabulary);
  return made;
}

class SharedRows : public ::testing::TestWithParam<std::string> {};

TEST_P(SharedRows, TrainAsTheirDocumentsApart) {
  TinyTraining tiny = testing::tiny(GetParam());
  tiny.config.model.dropout = 0;
  models::DataShape shape;
  shape.input = {DType::kI64, {-1, kContext}};
  shape.classes = 13;
  tiny.spec = models::describe(tiny.config.model, shape);
  const Documents made = made_up(24, 13);
  const data::DocumentSource rows(made.tokens, 0, made.ends, kContext);
  const Apart apart(made.tokens, data::pack_rows(0, made.ends, kContext));
  ASSERT_LT(rows.size(), apart.size());
  const Unmasked unmasked(rows);
  const auto step = [&](const data::Source& source) {
    return testing::run_steps(tiny, {.microbatch_sizes = {source.size()}, .source = &source});
  };
  const StepResult together = step(rows), each = step(apart), wrong = step(unmasked);
  EXPECT_EQ(together.outputs.loss.count, rows.predictions());
  EXPECT_EQ(together.outputs.loss.count, each.outputs.loss.count);
  EXPECT_EQ(together.outputs.loss.correct, each.outputs.loss.correct);
  EXPECT_EQ(together.outputs.loss.loss.value(), each.outputs.loss.loss.value());  // to the bit
  EXPECT_LT(testing::relative_error(together.gradients, each.gradients), 2e-6);
  EXPECT_NE(wrong.outputs.loss.loss.value(), each.outputs.loss.loss.value());  // control
  EXPECT_GT(testing::relative_error(wrong.gradients, each.gradients), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(All, SharedRows,
                         ::testing::Values("gpt-tied", "gpt-untied", "llama-tied", "llama-untied"),
                         [](const auto& name) {
                           std::string text = name.param;
                           std::ranges::replace(text, '-', '_');
                           return text;
                         });

class DocumentSession : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (uint32_t i = 0; i < 400; ++i) {
      const auto words = philox4x32({0, i, 0, 0}, {5, 6});
      for (uint32_t t = 0; t < words[0] % 20; ++t)
        text.push_back(static_cast<char>('a' + (words[1] + t * t) % 11));
      text += "\n\n";
    }
    write_file_atomic(folder_.path() + "/text.txt", text);
  }

  config::Config config(const std::string& model, std::vector<std::string> more) const {
    std::vector<std::string> all = {"--model.name", model, "--training.dataset_path",
                                    folder_.path() + "/text.txt"};
    all.insert(all.end(), more.begin(), more.end());
    return config::parse(R"(
      [model]
      layers = 2
      heads = 2
      width = 16
      [training]
      dataset = "text"
      seq_len = 24
      local_batch_size = 2
      global_batch_size = 8
      steps = 6
      threads = 1
      [optimizer]
      name = "adamw"
      lr = 3e-3
      [data]
      document_separator = "\n\n"
      [validation]
      freq = 3
      [checkpoint]
      interval = 3
      [debug]
      deterministic = "strict"
    )",
                         "documents_test", all);
  }

  std::string train_on(const std::string& name, const std::string& model, int ranks,
                       const std::vector<std::string>& more = {}, bool resume = false) const {
    const std::string run = folder_.path() + "/" + model + name;
    testing::run_ranks(ranks,
                       [&](comm::Communicator& communicator) {
                         TrainRequest request;
                         request.config = config(model, more);
                         if (communicator.rank() == 0) request.run_folder = run;
                         request.resume = resume;
                         if (ranks > 1) request.communicator = &communicator;
                         train(request);
                       },
                       {.timeout_ms = testing::kPatienceMs});
    return read_file(run + "/model/model.safetensors");
  }

  testing::TemporaryFolder folder_;
};

TEST_F(DocumentSession, EndsWithTheSameBitsInAnyLayout) {
  for (const std::string model : {"gpt", "llama"}) {
    const std::vector<std::string> dropout =
        model == "gpt" ? std::vector<std::string>{"--model.dropout", "0.1"} : std::vector<std::string>{};
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.end(), dropout.begin(), dropout.end());
      return more;
    };
    const std::string alone = train_on("alone", model, 1, with({}));
    EXPECT_EQ(alone, train_on("ranks", model, 2, with({})));
    EXPECT_EQ(alone, train_on("recompute", model, 1, with({"--activation_checkpoint.mode", "full"})));
    EXPECT_EQ(alone, train_on("no_prefetch", model, 1, with({"--data.prefetch_batches", "0"})));
    const std::string run = folder_.path() + "/" + model + "resumed";
    train_on("resumed", model, 1, with({}));
    std::filesystem::remove_all(run + "/checkpoints/step-00000006");
    std::filesystem::remove_all(run + "/model");
    EXPECT_EQ(alone, train_on("resumed", model, 2, with({}), true));
    EXPECT_NE(alone, train_on("windows", model, 1, with({"--data.document_separator", ""})));  // control
  }
}

TEST_F(DocumentSession, RecurrentNetworksAreRefused) {
  try {
    train_on("lstm", "lstm", 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("from one document of a row to the next"));
  }
}

}  // namespace
}  // namespace furrow::train
