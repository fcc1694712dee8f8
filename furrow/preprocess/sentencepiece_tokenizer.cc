#include "furrow/preprocess/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <exception>
#include <utility>

#include "furrow/base/base64.h"
#include "furrow/preprocess/sentencepiece_model.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

[[noreturn]] void damaged(const std::string& why) {
  throw Error(ErrorCode::kDataLoss, "the SentencePiece model is damaged: " + why);
}

}  // namespace

struct SentencePieceTokenizer::Model {
  std::string bytes;
  sentencepiece::SentencePieceProcessor processor;
  int64_t size = 0;
  int end = -1;  // of a sentence
};

namespace {

// The library answers with a status, but the tries below it throw, such as over a piece without letters.
void load_model(sentencepiece::SentencePieceProcessor& processor, const std::string& bytes) {
  std::string message;
  try {
    const auto status = processor.LoadFromSerializedProto(bytes);
    if (status.ok()) return;
    message = status.message();
  } catch (const std::exception& error) {
    message = error.what();
  }
  damaged(message);
}

std::optional<uint32_t> token_of(int id) {
  return id < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(id));
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string bytes) {
  auto model = std::make_unique<Model>();
  model->bytes = std::move(bytes);
  check_sentencepiece_model(model->bytes);
  load_model(model->processor, model->bytes);
  model->size = model->processor.GetPieceSize();
  model->end = model->processor.eos_id();
  model_ = std::move(model);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<Preprocessor> SentencePieceTokenizer::load(const State& state) {
  auto model = from_base64(state_value(state, "model"));
  if (!model) damaged("it is not base64");
  return std::make_unique<SentencePieceTokenizer>(std::move(*model));
}

State SentencePieceTokenizer::state() const {
  return {{"kind", "sentencepiece"}, {"model", to_base64(model_->bytes)}};
}

const std::string& SentencePieceTokenizer::model() const { return model_->bytes; }

int64_t SentencePieceTokenizer::vocabulary_size() const { return model_->size; }

void SentencePieceTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  for (size_t offset = 0; offset < text.size();) decode_utf8(text, offset);  // or the error with its offset
  std::vector<int> line_ids;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const auto status = model_->processor.Encode({text.data() + at, end - at}, &line_ids);
    if (!status.ok()) throw Error(ErrorCode::kInvalidArgument, std::string(status.message()));
    ids.insert(ids.end(), line_ids.begin(), line_ids.end());
    if (end < text.size() && model_->end >= 0) ids.push_back(static_cast<uint32_t>(model_->end));
    at = end + 1;
  }
}

bool SentencePieceTokenizer::may_cut(std::string_view text, size_t at) const { return text[at - 1] == '\n'; }

std::optional<uint32_t> SentencePieceTokenizer::begin_token() const {
  return token_of(model_->processor.bos_id());
}

std::optional<uint32_t> SentencePieceTokenizer::end_token() const { return token_of(model_->end); }

std::string SentencePieceTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  std::vector<int> line;
  const auto flush = [&] {
    std::string part;
    const auto status = model_->processor.Decode(line, &part);
    if (!status.ok()) throw Error(ErrorCode::kInvalidArgument, std::string(status.message()));
    text += part;
    line.clear();
  };
  for (const uint32_t id : ids) {
    if (id >= static_cast<uint64_t>(model_->size)) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("token {} is outside the vocabulary of {}", id, model_->size));
    }
    if (static_cast<int>(id) == model_->end) {
      flush();
      text += '\n';
    } else {
      line.push_back(static_cast<int>(id));
    }
  }
  flush();
  return text;
}

}  // namespace furrow::preprocess
