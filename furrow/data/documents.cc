#include "furrow/data/documents.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <numeric>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/data/records.h"

namespace furrow::data {
namespace {

std::vector<DocumentPiece> cut(int64_t begin, std::span<const int64_t> ends, int64_t context) {
  std::vector<DocumentPiece> pieces;
  for (const int64_t end : ends) {
    for (int64_t at = begin; at + 1 < end; at += context)
      pieces.push_back({at, std::min(context, end - 1 - at)});
    begin = end;
  }
  return pieces;
}

// Pieces by falling length, equal ones in their order.
std::vector<size_t> by_length(std::span<const DocumentPiece> pieces, int64_t context) {
  std::vector<size_t> starts(static_cast<size_t>(context) + 2);
  const auto key = [context](const DocumentPiece& piece) {
    return static_cast<size_t>(context - piece.count);
  };
  for (const DocumentPiece& piece : pieces) ++starts[key(piece) + 1];
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  std::vector<size_t> order(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) order[starts[key(pieces[i])]++] = i;
  return order;
}

// The rows that are not full, by the room that is left in them.
class OpenRows {
 public:
  explicit OpenRows(int64_t context)
      : context_(context), rows_(static_cast<size_t>(context)), filled_(rows_.size() / 64 + 1, 0) {}

  // The row for a piece of `count`: an open one with the least room that holds it, else a new one.
  int64_t place(int64_t count) {
    const size_t room = least_room(static_cast<size_t>(count));
    if (room >= rows_.size()) {
      leave(next_, context_ - count);
      return next_++;
    }
    std::deque<int64_t>& rows = rows_[room];
    const int64_t row = rows.front();
    rows.pop_front();
    if (rows.empty()) filled_[room / 64] &= ~(uint64_t{1} << room % 64);
    leave(row, static_cast<int64_t>(room) - count);
    return row;
  }

  int64_t rows() const { return next_; }

 private:
  void leave(int64_t row, int64_t room) {
    if (room == 0) return;
    const auto index = static_cast<size_t>(room);
    rows_[index].push_back(row);
    filled_[index / 64] |= uint64_t{1} << index % 64;
  }

  size_t least_room(size_t count) const {
    for (size_t i = count / 64; i < filled_.size(); ++i) {
      const uint64_t above = i == count / 64 ? ~uint64_t{0} << count % 64 : ~uint64_t{0};
      if (const uint64_t word = filled_[i] & above; word != 0)
        return i * 64 + static_cast<size_t>(std::countr_zero(word));
    }
    return rows_.size();
  }

  int64_t context_, next_ = 0;
  std::vector<std::deque<int64_t>> rows_;  // by room; below `context`
  std::vector<uint64_t> filled_;           // which of them hold a row, a bit each
};

}  // namespace

std::span<const DocumentPiece> PackedRows::row(int64_t index) const {
  const auto i = static_cast<size_t>(index);
  return std::span(pieces).subspan(static_cast<size_t>(first[i]),
                                   static_cast<size_t>(first[i + 1] - first[i]));
}

PackedRows pack_rows(int64_t begin, std::span<const int64_t> ends, int64_t context) {
  FURROW_CHECK(context > 0, "rows of no tokens");
  const std::vector<DocumentPiece> pieces = cut(begin, ends, context);
  OpenRows open(context);
  std::vector<int64_t> row_of(pieces.size());
  for (const size_t i : by_length(pieces, context)) row_of[i] = open.place(pieces[i].count);

  // Rows get new numbers in the order of their first piece.
  std::vector<int64_t> number(static_cast<size_t>(open.rows()), -1), sizes;
  for (int64_t& row : row_of) {
    int64_t& renamed = number[static_cast<size_t>(row)];
    if (renamed < 0) renamed = static_cast<int64_t>(sizes.size()), sizes.push_back(0);
    row = renamed;
    ++sizes[static_cast<size_t>(row)];
  }
  PackedRows packed{std::vector<DocumentPiece>(pieces.size()), {0}};
  for (const int64_t size : sizes) packed.first.push_back(packed.first.back() + size);
  std::vector<int64_t> next(packed.first.begin(), packed.first.end() - 1);
  for (size_t i = 0; i < pieces.size(); ++i)
    packed.pieces[static_cast<size_t>(next[static_cast<size_t>(row_of[i])]++)] = pieces[i];
  return packed;
}

std::vector<Field> document_fields(int64_t context) {
  std::vector<Field> fields = text_fields(context);
  fields.push_back({"position", DType::kI64, {context}});
  return fields;
}

DocumentSource::DocumentSource(std::shared_ptr<const TokenStore> tokens, int64_t begin,
                               std::vector<int64_t> ends, int64_t context)
    : tokens_(std::move(tokens)),
      begin_(begin),
      ends_(std::move(ends)),
      context_(context),
      rows_(pack_rows(begin, ends_, context)),
      fields_(document_fields(context)) {
  FURROW_CHECK(!ends_.empty() && begin >= 0 && ends_.back() <= tokens_->size(), "documents beyond the text");
  FURROW_CHECK(size() > 0, "documents without anything to predict");
}

int64_t DocumentSource::predictions() const {
  int64_t count = 0;
  for (const DocumentPiece& piece : rows_.pieces) count += piece.count;
  return count;
}

void DocumentSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const auto context = static_cast<size_t>(context_);
  std::vector<int64_t> window(context + 1);
  for (size_t row = 0; row < indices.size(); ++row) {
    const auto part = [&](size_t f) { return fields[f].as<int64_t>().subspan(row * context, context); };
    const auto input = part(0), target = part(1), position = part(2);
    size_t at = 0;
    for (const DocumentPiece& piece : rows_.row(indices[row])) {
      const auto count = static_cast<size_t>(piece.count);
      const auto tokens = std::span(window).first(count + 1);
      tokens_->copy(piece.begin, tokens);
      std::ranges::copy(tokens.first(count), input.subspan(at).begin());
      std::ranges::copy(tokens.last(count), target.subspan(at).begin());
      std::iota(position.begin() + static_cast<long>(at), position.begin() + static_cast<long>(at + count),
                0);
      at += count;
    }
    std::fill(input.begin() + static_cast<long>(at), input.end(), 0);
    std::fill(target.begin() + static_cast<long>(at), target.end(), kIgnoredTarget);
    std::iota(position.begin() + static_cast<long>(at), position.end(), 0);
  }
}

namespace {

// Where documents end, as records of their own.
class EndRecords : public Records {
 public:
  explicit EndRecords(std::vector<int64_t> ends) : ends_(std::move(ends)) {}
  std::string_view layout() const override { return kDocumentRecords; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t size() const override { return static_cast<int64_t>(ends_.size()); }
  void read(int64_t first, std::span<std::byte> out) const override {
    std::memcpy(out.data(), ends_.data() + first, out.size());
  }

 private:
  std::vector<int64_t> ends_;
  std::vector<Field> fields_ = document_end_fields();
};

}  // namespace

class DocumentSource::DocumentRecords : public Records {
 public:
  explicit DocumentRecords(const DocumentSource& source)
      : source_(source), fields_(token_record_fields(source.tokens_->vocabulary())) {}
  std::string_view layout() const override { return kDocumentRecords; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t size() const override { return source_.ends_.back() - source_.begin_; }

  void read(int64_t first, std::span<std::byte> out) const override {
    const auto count = static_cast<int64_t>(out.size()) / source_.tokens_->width();
    const auto bytes = source_.tokens_->raw(source_.begin_ + first, count, out);
    if (bytes.data() != out.data()) std::memcpy(out.data(), bytes.data(), bytes.size());
  }

  std::unique_ptr<Records> index() const override {
    std::vector<int64_t> ends = source_.ends_;
    for (int64_t& end : ends) end -= source_.begin_;
    return std::make_unique<EndRecords>(std::move(ends));
  }

 private:
  const DocumentSource& source_;
  std::vector<Field> fields_;
};

std::unique_ptr<Records> DocumentSource::records() const { return std::make_unique<DocumentRecords>(*this); }

}  // namespace furrow::data
