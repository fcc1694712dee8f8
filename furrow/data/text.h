// Text as tokens in memory, and sources of windows over parts of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/data/source.h"

namespace furrow::data {

// Token ids, each in the narrowest of 1, 2 and 4 bytes that holds the vocabulary, little-endian.  Immutable;
// thread safe.
class TokenStore {
 public:
  virtual ~TokenStore() = default;
  virtual int64_t size() const = 0;
  virtual int64_t vocabulary() const = 0;
  // The bytes of tokens [begin, begin + count): in place, or read into the front of `scratch`.  REQUIRES: in
  // range; scratch holds count * width() bytes.
  virtual std::span<const std::byte> raw(int64_t begin, int64_t count,
                                         std::span<std::byte> scratch) const = 0;

  int width() const;  // bytes per token
  // Tokens [begin, begin + out.size()).  REQUIRES: in range.
  void copy(int64_t begin, std::span<int64_t> out) const;
};

int token_width(int64_t vocabulary);

// Tokens in memory.
class Tokens : public TokenStore {
 public:
  Tokens(std::span<const uint32_t> ids, int64_t vocabulary);

  int64_t size() const override { return size_; }
  int64_t vocabulary() const override { return vocabulary_; }
  std::span<const std::byte> raw(int64_t begin, int64_t count, std::span<std::byte> scratch) const override;

 private:
  CountedBuffer buffer_;
  int64_t size_, vocabulary_;
};

// "input" i64 [context], "target" i64 [context].
std::vector<Field> text_fields(int64_t context);
// "token" u8 [width].
std::vector<Field> token_record_fields(int64_t vocabulary);

// Sample i reads the `context` + 1 tokens from begin + i * stride: the input is all but the last of them, the
// target all but the first, so that every target is the token after its input.  With stride 1 every window
// comes; with stride `context` every token is predicted once, apart from a rest shorter than a window.
class TextSource : public Source {
 public:
  struct Range {
    int64_t begin, end;  // tokens of this split
  };

  // REQUIRES: a range of at least context + 1 tokens, context > 0, stride > 0.
  TextSource(std::shared_ptr<const TokenStore> tokens, Range range, int64_t context, int64_t stride);

  int64_t size() const override { return size_; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return tokens_->vocabulary(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override;
  std::unique_ptr<Records> records() const override;  // the tokens of the range

 private:
  class TokenRecords;
  std::shared_ptr<const TokenStore> tokens_;
  Range range_;
  int64_t context_, stride_, size_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
