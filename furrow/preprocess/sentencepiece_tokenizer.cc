#include "furrow/preprocess/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
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
  bool keeps_lines = false;
  std::vector<int> front = {};  // what the library puts in front of a text, where line ends are kept
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

constexpr const char* kLines = "lines";  // how a saved model reads the ends of lines
constexpr const char* kKept = "kept";    // no such key: they end sentences

std::vector<int> pieces_of(const sentencepiece::SentencePieceProcessor& processor, std::string_view text) {
  std::vector<int> ids;
  const auto status = processor.Encode({text.data(), text.size()}, &ids);
  if (!status.ok()) throw Error(ErrorCode::kInvalidArgument, std::string(status.message()));
  return ids;
}

// The end of a line is a token of its own: a piece, or a byte, and in no other piece, so that the pieces of a
// text are those of its lines.  Then `front` is what the library puts before a text.
bool keeps_lines(const sentencepiece::SentencePieceProcessor& processor, std::vector<int>* front) {
  constexpr std::string_view kText = "a  \n\n  b";
  std::vector<int> ids = pieces_of(processor, "\n");
  if (ids.empty()) return false;
  const int end = ids.back();
  if (processor.IdToPiece(end) != "\n" && processor.IdToPiece(end) != "<0x0A>") return false;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    if (id != end && processor.IdToPiece(id).find('\n') != std::string::npos) return false;
  }
  std::string again;
  if (!processor.Decode(pieces_of(processor, kText), &again).ok() || again != kText) return false;
  ids.pop_back();
  *front = std::move(ids);
  return true;
}

std::optional<uint32_t> token_of(int id) {
  return id < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(id));
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string bytes, LineEnds line_ends) {
  auto model = std::make_unique<Model>();
  model->bytes = std::move(bytes);
  check_sentencepiece_model(model->bytes);
  load_model(model->processor, model->bytes);
  model->size = model->processor.GetPieceSize();
  model->end = model->processor.eos_id();
  try {
    model->keeps_lines = line_ends == LineEnds::kAsTheModel && keeps_lines(model->processor, &model->front);
  } catch (const Error& error) {
    damaged(error.message());
  }
  model_ = std::move(model);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<Preprocessor> SentencePieceTokenizer::load(const State& state) {
  auto model = from_base64(state_value(state, "model"));
  if (!model) damaged("it is not base64");
  const bool kept = state.contains(kLines);
  if (kept && state_value(state, kLines) != kKept) damaged("'lines' is no way to read the ends of lines");
  return std::make_unique<SentencePieceTokenizer>(std::move(*model),
                                                  kept ? LineEnds::kAsTheModel : LineEnds::kSentences);
}

State SentencePieceTokenizer::state() const {
  State state{{"kind", "sentencepiece"}, {"model", to_base64(model_->bytes)}};
  if (model_->keeps_lines) state[kLines] = kKept;
  return state;
}

const std::string& SentencePieceTokenizer::model() const { return model_->bytes; }

int64_t SentencePieceTokenizer::vocabulary_size() const { return model_->size; }

void SentencePieceTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  for (size_t offset = 0; offset < text.size();) decode_utf8(text, offset);  // or the error with its offset
  model_->keeps_lines ? encode_lines(text, ids) : encode_sentences(text, ids);
}

void SentencePieceTokenizer::encode_sentences(std::string_view text, std::vector<uint32_t>& ids) const {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::vector<int> line = pieces_of(model_->processor, text.substr(at, end - at));
    ids.insert(ids.end(), line.begin(), line.end());
    if (end < text.size() && model_->end >= 0) ids.push_back(static_cast<uint32_t>(model_->end));
    at = end + 1;
  }
}

// Line by line, each with the end of the line before it, since what is put in front belongs to a text's first
// one alone; and the library's memory and time do not grow with the text.
void SentencePieceTokenizer::encode_lines(std::string_view text, std::vector<uint32_t>& ids) const {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at + 1), text.size());
    const std::vector<int> line = pieces_of(model_->processor, text.substr(at, end - at));
    const size_t front = text[at] == '\n' ? model_->front.size() : 0;
    const bool known =
        line.size() >= front &&
        std::equal(line.begin(), line.begin() + static_cast<long>(front), model_->front.begin());
    if (!known) damaged("it reads the end of a line in more than one way");
    ids.insert(ids.end(), line.begin() + static_cast<long>(front), line.end());
    at = end;
  }
}

bool SentencePieceTokenizer::may_cut(std::string_view text, size_t at) const {
  return text[model_->keeps_lines ? at : at - 1] == '\n';
}

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
