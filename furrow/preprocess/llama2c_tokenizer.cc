#include "furrow/preprocess/llama2c_tokenizer.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <queue>
#include <unordered_map>
#include <utility>

#include "furrow/base/base64.h"
#include "furrow/preprocess/utf8.h"

namespace furrow::preprocess {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kBegin = 1, kFirstByte = 3, kNone = 0xffffffff;
constexpr size_t kFirstPiece = kFirstByte + 256, kMostPieces = size_t{1} << 24;

[[noreturn]] void damaged(const std::string& why) {
  throw Error(ErrorCode::kDataLoss, "the tokenizer of llama2.c is damaged: " + why);
}

template <class T>
T take(std::string_view& file) {
  if (file.size() < sizeof(T)) damaged("it is cut short");
  T value;
  std::memcpy(&value, file.data(), sizeof(T));
  file.remove_prefix(sizeof(T));
  return value;
}

// A place where two neighbours could be one piece.
struct Merge {
  float score;
  uint32_t left, right;  // symbols, by place in the text
  uint32_t id;
  // The highest score, the leftmost of equals, comes out of a queue first.
  bool operator<(const Merge& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

struct Llama2cTokenizer::Pieces {
  std::string file;
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::unordered_map<std::string_view, uint32_t> ids;  // the first of equals

  explicit Pieces(std::string_view bytes) : file(bytes) {
    std::string_view rest = file;
    take<int32_t>(rest);
    while (!rest.empty()) {
      if (texts.size() == kMostPieces) damaged("too many pieces");
      scores.push_back(take<float>(rest));
      const auto length = take<int32_t>(rest);
      if (length < 0 || static_cast<size_t>(length) > rest.size() || !std::isfinite(scores.back()))
        damaged(fmt::format("piece {} cannot be", texts.size()));
      texts.emplace_back(rest.substr(0, static_cast<size_t>(length)));
      rest.remove_prefix(static_cast<size_t>(length));
    }
    if (texts.size() < kFirstPiece) damaged(fmt::format("{} pieces do not hold the bytes", texts.size()));
    for (uint32_t byte = 0; byte < 256; ++byte) {
      if (texts[kFirstByte + byte] != fmt::format("<0x{:02X}>", byte))
        damaged(fmt::format("piece {} is not byte {}", kFirstByte + byte, byte));
    }
    for (size_t id = kFirstPiece; id < texts.size(); ++id) ids.emplace(texts[id], static_cast<uint32_t>(id));
  }

  uint32_t find(std::string_view text) const {
    const auto found = ids.find(text);
    return found == ids.end() ? kNone : found->second;
  }
};

namespace {

// The symbols of a text as a linked list, merged by score.
template <class Pieces>
class Merger {
 public:
  explicit Merger(const Pieces& pieces) : pieces_(pieces) {}

  void add_character(std::string_view character) {
    if (const uint32_t id = pieces_.find(character); id != kNone) return add(id);
    for (const char byte : character) add(kFirstByte + static_cast<unsigned char>(byte));
  }

  void merge_into(std::vector<uint32_t>& ids) {
    for (uint32_t i = 0; i + 1 < symbols_.size(); ++i) offer(i, i + 1);
    while (!queue_.empty()) {
      const Merge merge = queue_.top();
      queue_.pop();
      Symbol &left = symbols_[merge.left], &right = symbols_[merge.right];
      const bool still = left.id != kNone && right.id != kNone && left.next == merge.right &&
                         joined(left.id, right.id) == pieces_.texts[merge.id];
      if (!still) continue;
      left.id = merge.id;
      left.next = std::exchange(right.next, kNone);
      right.id = kNone;
      if (left.next != kNone) {
        symbols_[left.next].before = merge.left;
        offer(merge.left, left.next);
      }
      if (left.before != kNone) offer(left.before, merge.left);
    }
    for (uint32_t i = symbols_.empty() ? kNone : 0; i != kNone; i = symbols_[i].next)
      ids.push_back(symbols_[i].id);
  }

 private:
  struct Symbol {
    uint32_t id, before, next;
  };

  void add(uint32_t id) {
    const auto place = static_cast<uint32_t>(symbols_.size());
    if (place > 0) symbols_.back().next = place;
    symbols_.push_back({id, place > 0 ? place - 1 : kNone, kNone});
  }

  const std::string& joined(uint32_t left, uint32_t right) {
    joined_ = pieces_.texts[left];
    return joined_ += pieces_.texts[right];
  }

  void offer(uint32_t left, uint32_t right) {
    if (symbols_[left].id < kFirstPiece || symbols_[right].id < kFirstPiece) return;  // bytes stay alone
    const uint32_t id = pieces_.find(joined(symbols_[left].id, symbols_[right].id));
    if (id != kNone) queue_.push({pieces_.scores[id], left, right, id});
  }

  const Pieces& pieces_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Merge> queue_;
  std::string joined_;
};

}  // namespace

Llama2cTokenizer::Llama2cTokenizer(std::string_view file) : pieces_(std::make_unique<const Pieces>(file)) {}

Llama2cTokenizer::~Llama2cTokenizer() = default;

std::unique_ptr<Preprocessor> Llama2cTokenizer::load(const State& state) {
  const auto file = from_base64(state_value(state, "pieces"));
  if (!file) damaged("it is not base64");
  return std::make_unique<Llama2cTokenizer>(*file);
}

State Llama2cTokenizer::state() const { return {{"kind", "llama2c"}, {"pieces", to_base64(pieces_->file)}}; }

int64_t Llama2cTokenizer::vocabulary_size() const { return static_cast<int64_t>(pieces_->texts.size()); }

void Llama2cTokenizer::encode(std::string_view text, std::vector<uint32_t>& ids) const {
  ids.push_back(kBegin);
  if (text.empty()) return;
  Merger merger(*pieces_);
  merger.add_character(" ");
  for (size_t offset = 0; offset < text.size();) {
    const size_t start = offset;
    decode_utf8(text, offset);
    merger.add_character(text.substr(start, offset - start));
  }
  merger.merge_into(ids);
}

std::string Llama2cTokenizer::decode(std::span<const uint32_t> ids) const {
  std::string text;
  bool begins = false;
  for (const uint32_t id : ids) {
    if (id >= pieces_->texts.size()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("token {} is outside the vocabulary of {}", id, pieces_->texts.size()));
    }
    if (id >= kFirstByte && id < kFirstPiece) {
      const char byte = static_cast<char>(id - kFirstByte);
      if (!begins || byte != ' ') text += byte;
    } else if (id >= kFirstPiece) {
      const std::string_view piece = pieces_->texts[id];
      text += begins && piece.starts_with(' ') ? piece.substr(1) : piece;
    }
    begins = id == kBegin;
  }
  return text;
}

}  // namespace furrow::preprocess
