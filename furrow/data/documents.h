// Several documents in one training sample: rows of `context` tokens, filled by best fit, so that little is
// padding and no document is cut that fits into a row.
//
// A document of n tokens is n - 1 predictions; one with more than `context` is cut into pieces of `context`
// predictions, which overlap by a token, so that each token but a document's first is predicted once.  A
// piece knows nothing of its neighbours in the row: "position" counts from its start, and the network attends
// within it alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "furrow/data/source.h"
#include "furrow/data/text.h"

namespace furrow::data {

inline constexpr int64_t kIgnoredTarget = -100;  // of padding: no loss, not counted

// `count` predictions, of the tokens after `begin`.
struct DocumentPiece {
  int64_t begin = 0;
  int64_t count = 0;
  friend bool operator==(const DocumentPiece&, const DocumentPiece&) = default;
};

struct PackedRows {
  std::vector<DocumentPiece> pieces;  // row after row, in the order of the text within each
  std::vector<int64_t> first;         // of each row in `pieces`; then their number
  int64_t rows() const { return static_cast<int64_t>(first.size()) - 1; }
  std::span<const DocumentPiece> row(int64_t index) const;
};

// Documents end at `ends`, ascending; the first begins at `begin`.  The longest pieces choose first, each the
// row with the least room that holds it, of equals the one that has had it longest; rows are in the order of
// their first piece. A pure function of its arguments; time in proportion to the pieces.  REQUIRES: context >
// 0.
PackedRows pack_rows(int64_t begin, std::span<const int64_t> ends, int64_t context);

// "input" i64 [context], "target" i64 [context], "position" i64 [context].
std::vector<Field> document_fields(int64_t context);

class DocumentSource : public Source {
 public:
  // Documents [begin, ends[0]), [ends[0], ends[1]), ... of `tokens`.  REQUIRES: in range; one with two
  // tokens.
  DocumentSource(std::shared_ptr<const TokenStore> tokens, int64_t begin, std::vector<int64_t> ends,
                 int64_t context);

  int64_t size() const override { return rows_.rows(); }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return tokens_->vocabulary(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;
  std::unique_ptr<Records> records() const override;  // the tokens, and where documents end

  int64_t predictions() const;  // targets that count

 private:
  class DocumentRecords;
  std::shared_ptr<const TokenStore> tokens_;
  int64_t begin_;
  std::vector<int64_t> ends_;
  int64_t context_;
  PackedRows rows_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
