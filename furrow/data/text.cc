#include "furrow/data/text.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "furrow/base/convert.h"
#include "furrow/base/error.h"
#include "furrow/data/records.h"

namespace furrow::data {
namespace {

template <class Narrow>
void narrow(std::span<const uint32_t> ids, std::byte* to) {
  auto* const out = reinterpret_cast<Narrow*>(to);
  for (size_t i = 0; i < ids.size(); ++i) out[i] = static_cast<Narrow>(ids[i]);
}

void narrow_to(std::span<const uint32_t> ids, int width, std::byte* to) {
  if (width == 1) narrow<uint8_t>(ids, to);
  if (width == 2) narrow<uint16_t>(ids, to);
  if (width == 4) narrow<uint32_t>(ids, to);
}

size_t token_bytes(int64_t count, int64_t vocabulary) {
  return static_cast<size_t>(count) * static_cast<size_t>(token_width(vocabulary));
}

// Of a text in shared memory: what it is, beside the tables there; where the ends of its documents are.
constexpr int64_t kTextAbout = -1;
size_t ends_at(int64_t tokens, int64_t vocabulary) { return (token_bytes(tokens, vocabulary) + 7) / 8 * 8; }

// Fetches a window into the cache while those before it are widened; further ahead is no faster.
constexpr size_t kRowsAhead = 3;

}  // namespace

int token_width(int64_t vocabulary) {
  if (vocabulary <= std::numeric_limits<uint8_t>::max() + 1) return 1;
  return vocabulary <= std::numeric_limits<uint16_t>::max() + 1 ? 2 : 4;
}

std::vector<std::byte> narrowed(std::span<const uint32_t> ids, int64_t vocabulary) {
  std::vector<std::byte> bytes(ids.size() * static_cast<size_t>(token_width(vocabulary)));
  narrow_to(ids, token_width(vocabulary), bytes.data());
  return bytes;
}

int TokenStore::width() const { return token_width(vocabulary()); }

void TokenStore::copy(int64_t begin, std::span<int64_t> out) const {
  std::vector<std::byte> scratch(out.size() * static_cast<size_t>(width()));
  const auto bytes = raw(begin, static_cast<int64_t>(out.size()), scratch);
  widen(bytes, static_cast<size_t>(width()), out);
}

Tokens::Tokens(std::span<const uint32_t> ids, int64_t vocabulary)
    : Tokens(CountedBuffer(token_bytes(static_cast<int64_t>(ids.size()), vocabulary), MemoryKind::kData),
             vocabulary) {
  narrow_to(ids, width(), buffer_.data());
}

Tokens::Tokens(CountedBuffer bytes, int64_t vocabulary)
    : buffer_(std::move(bytes)), bytes_(buffer_.data(), buffer_.size()), vocabulary_(vocabulary) {}

Tokens::Tokens(MappedFile bytes, int64_t vocabulary)
    : file_(std::move(bytes)), bytes_(file_->bytes()), vocabulary_(vocabulary) {}

Tokens::Tokens(std::shared_ptr<const SharedMemory> memory, int64_t count, int64_t vocabulary)
    : shared_(std::move(memory)), vocabulary_(vocabulary) {
  bytes_ = std::span<const std::byte>(shared_->bytes()).first(token_bytes(count, vocabulary));
}

std::span<const std::byte> Tokens::raw(int64_t begin, int64_t count, std::span<std::byte>) const {
  const auto width = static_cast<size_t>(this->width());
  return bytes_.subspan(static_cast<size_t>(begin) * width, static_cast<size_t>(count) * width);
}

void Tokens::prefetch(int64_t begin, int64_t count) const {
  const auto bytes = raw(begin, count, {});
  for (size_t i = 0; i < bytes.size(); i += 64) __builtin_prefetch(bytes.data() + i);
  asm volatile("");  // or GCC takes a function of prefetches alone for pure and drops its calls
}

void TokenBuilder::append(std::span<const uint32_t> ids) {
  blocks_.push_back(narrowed(ids, vocabulary_));
  size_ += static_cast<int64_t>(ids.size());
}

void TokenBuilder::mark(TextPlace, std::span<const int64_t> ends) {
  if (shares_) ends_.insert(ends_.end(), ends.begin(), ends.end());
}

void TokenBuilder::put_tokens(std::byte* to) {
  for (std::vector<std::byte>& block : blocks_) {
    to = std::ranges::copy(block, to).out;
    std::vector<std::byte>().swap(block);  // never all tokens twice
  }
}

std::shared_ptr<const TokenStore> TokenBuilder::finish() {
  if (shares_) return finish_shared();
  CountedBuffer all(token_bytes(size_, vocabulary_), MemoryKind::kData);
  put_tokens(all.data());
  return std::make_shared<Tokens>(std::move(all), vocabulary_);
}

// Tokens, up to a multiple of 8 bytes, then the ends.
std::shared_ptr<const TokenStore> TokenBuilder::finish_shared() {
  const size_t before = ends_at(size_, vocabulary_);
  const auto memory = SharedMemory::make({kTextAbout, vocabulary_, size_, static_cast<int64_t>(ends_.size())},
                                         before + ends_.size() * sizeof(int64_t));
  put_tokens(memory->bytes().data());
  std::ranges::copy(std::as_bytes(std::span(ends_)), memory->bytes().data() + before);
  place_ = memory->place();
  return std::make_shared<Tokens>(memory, size_, vocabulary_);
}

std::optional<SharedText> map_text(const std::string& place, int64_t vocabulary) {
  const auto memory = SharedMemory::map(place);
  if (memory == nullptr) return std::nullopt;
  const auto [kind, tokens_of, size, ends] = memory->about();
  constexpr int64_t kMost = int64_t{1} << 50;  // that products stay in range
  if (kind != kTextAbout || tokens_of != vocabulary || size < 0 || size > kMost || ends < 0 || ends > kMost)
    return std::nullopt;
  const size_t before = ends_at(size, vocabulary), end_bytes = static_cast<size_t>(ends) * sizeof(int64_t);
  if (memory->bytes().size() != before + end_bytes) return std::nullopt;
  SharedText text{std::make_shared<Tokens>(memory, size, vocabulary),
                  std::vector<int64_t>(static_cast<size_t>(ends))};
  if (ends > 0) std::memcpy(text.ends.data(), memory->bytes().data() + before, end_bytes);
  return text;
}

std::vector<Field> text_fields(int64_t context) {
  return {{"input", DType::kI64, {context}}, {"target", DType::kI64, {context}}};
}

std::vector<Field> token_record_fields(int64_t vocabulary) {
  return {{"token", DType::kU8, {token_width(vocabulary)}}};
}

int64_t Windows::shifts(int64_t tokens) const {
  return shift ? std::min(stride, std::max<int64_t>(1, tokens - context)) : 1;
}

int64_t Windows::count(int64_t tokens) const {
  return tokens > context ? (tokens - shifts(tokens) - context) / stride + 1 : 0;
}

Windows every_window(int64_t context) { return {.context = context}; }

Windows disjoint_windows(int64_t context, uint64_t seed) {
  return {.context = context, .stride = context, .shift = Philox(seed, RandomPurpose::kAugment, "windows")};
}

TextSource::TextSource(std::shared_ptr<const TokenStore> tokens, Range range, const Windows& windows)
    : tokens_(std::move(tokens)), range_(range), windows_(windows), fields_(text_fields(windows.context)) {
  const int64_t count = range.end - range.begin;
  FURROW_CHECK(windows.context > 0 && windows.stride > 0, "an empty window");
  FURROW_CHECK(range.begin >= 0 && range.end <= tokens_->size() && count > windows.context,
               "a range shorter than a window");
  shifts_ = windows.shifts(count);
  size_ = windows.count(count);
}

int64_t TextSource::shift_at(int64_t position) const {
  const PhiloxBlock words = windows_.shift->block(0, static_cast<uint64_t>(position / size_), 0);
  return static_cast<int64_t>(uint64_t{words[0]} * static_cast<uint64_t>(shifts_) >> 32);
}

void TextSource::read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
                         std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const auto input = fields[0].as<int64_t>();
  const auto target = fields[1].as<int64_t>();
  const auto context = static_cast<size_t>(windows_.context);
  const bool shifted = shifts_ > 1 && !positions.empty();
  const auto width = static_cast<size_t>(tokens_->width());
  std::vector<std::byte> scratch((context + 1) * width);
  const auto begin_of = [&](size_t row) {
    return range_.begin + indices[row] * windows_.stride + (shifted ? shift_at(positions[row]) : 0);
  };
  const auto fetch = [&](size_t row) {
    if (row < indices.size()) tokens_->prefetch(begin_of(row), windows_.context + 1);
  };
  for (size_t row = 0; row < kRowsAhead; ++row) fetch(row);
  for (size_t row = 0; row < indices.size(); ++row) {
    fetch(row + kRowsAhead);
    const auto bytes = tokens_->raw(begin_of(row), windows_.context + 1, scratch);
    widen(bytes, width, input.subspan(row * context, context));
    widen(bytes.subspan(width), width, target.subspan(row * context, context));
  }
}

class TextSource::TokenRecords : public Records {
 public:
  explicit TokenRecords(const TextSource& source)
      : source_(source), fields_(token_record_fields(source.tokens_->vocabulary())) {}
  std::string_view layout() const override { return kTokenRecords; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t size() const override { return source_.range_.end - source_.range_.begin; }

  void read(int64_t first, std::span<std::byte> out) const override {
    const auto count = static_cast<int64_t>(out.size()) / source_.tokens_->width();
    const auto bytes = source_.tokens_->raw(source_.range_.begin + first, count, out);
    if (bytes.data() != out.data()) std::memcpy(out.data(), bytes.data(), bytes.size());
  }

 private:
  const TextSource& source_;
  std::vector<Field> fields_;
};

std::unique_ptr<Records> TextSource::records() const { return std::make_unique<TokenRecords>(*this); }

}  // namespace furrow::data
