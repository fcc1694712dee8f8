// Text as tokens in memory, and sources of windows over parts of it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/base/memory.h"
#include "furrow/base/rng.h"
#include "furrow/data/shared_memory.h"
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
  // A hint that raw(begin, count) comes soon.
  virtual void prefetch(int64_t /*begin*/, int64_t /*count*/) const {}

  int width() const;  // bytes per token
  // Tokens [begin, begin + out.size()).  REQUIRES: in range.
  void copy(int64_t begin, std::span<int64_t> out) const;
};

int token_width(int64_t vocabulary);
std::vector<std::byte> narrowed(std::span<const uint32_t> ids, int64_t vocabulary);  // as raw() gives them

// Tokens in memory, also in such that processes share, or in a file that is mapped.
class Tokens : public TokenStore {
 public:
  Tokens(std::span<const uint32_t> ids, int64_t vocabulary);
  // As raw() gives them.
  Tokens(CountedBuffer bytes, int64_t vocabulary);
  Tokens(MappedFile bytes, int64_t vocabulary);
  // `count` of them at the front of `memory`.
  Tokens(std::shared_ptr<const SharedMemory> memory, int64_t count, int64_t vocabulary);

  int64_t size() const override { return static_cast<int64_t>(bytes_.size()) / width(); }
  int64_t vocabulary() const override { return vocabulary_; }
  std::span<const std::byte> raw(int64_t begin, int64_t count, std::span<std::byte> scratch) const override;
  void prefetch(int64_t begin, int64_t count) const override;

 private:
  CountedBuffer buffer_;
  std::optional<MappedFile> file_;
  std::shared_ptr<const SharedMemory> shared_;
  std::span<const std::byte> bytes_;  // of one of them
  int64_t vocabulary_;
};

// Where in a text the next token comes from: a byte of what one of its files holds.
struct TextPlace {
  uint64_t file = 0, byte = 0;
  friend bool operator==(const TextPlace&, const TextPlace&) = default;
};

// Takes tokens as they come.  One thread.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual int64_t size() const = 0;
  virtual void append(std::span<const uint32_t> ids) = 0;
  // What was appended so far is the text up to `place`; `ends` are those of the documents since the last
  // mark.
  virtual void mark(TextPlace place, std::span<const int64_t> ends) = 0;
  virtual std::shared_ptr<const TokenStore> finish() = 0;  // called once
};

// Into memory, which may be `shared` with other processes: then the ends of documents lie there too.
class TokenBuilder : public TokenSink {
 public:
  explicit TokenBuilder(int64_t vocabulary, bool shared = false) : vocabulary_(vocabulary), shares_(shared) {}
  int64_t size() const override { return size_; }
  void append(std::span<const uint32_t> ids) override;
  void mark(TextPlace place, std::span<const int64_t> ends) override;
  std::shared_ptr<const TokenStore> finish() override;
  std::string place() const { return place_; }  // of what was finished; empty: it is not shared

 private:
  void put_tokens(std::byte* to);
  std::shared_ptr<const TokenStore> finish_shared();

  int64_t vocabulary_, size_ = 0;
  bool shares_;
  std::vector<std::vector<std::byte>> blocks_;
  std::vector<int64_t> ends_;  // where they are shared
  std::string place_;
};

// What a TokenBuilder of another process has put where `place` says; nothing where that is not there, or of
// another vocabulary.
struct SharedText {
  std::shared_ptr<const TokenStore> tokens;
  std::vector<int64_t> ends;
};
std::optional<SharedText> map_text(const std::string& place, int64_t vocabulary);

// "input" i64 [context], "target" i64 [context].
std::vector<Field> text_fields(int64_t context);
// "token" u8 [width].
std::vector<Field> token_record_fields(int64_t vocabulary);

// How a text is cut into samples.
struct Windows {
  int64_t context = 0;  // predictions of one
  int64_t stride = 1;   // tokens from one to the next
  // Of training, where the stride is above 1: windows of an epoch begin at a token drawn from it and the
  // epoch, among the first `stride` ones, so that each epoch has other cuts and in the long run every window
  // comes.
  std::optional<Philox> shift = {};

  int64_t shifts(int64_t tokens) const;  // beginnings to draw from
  int64_t count(int64_t tokens) const;   // samples, at every beginning
};
// Every window; those side by side, cut anew in each epoch (an epoch has each token once, but for the ends).
Windows every_window(int64_t context);
Windows disjoint_windows(int64_t context, uint64_t seed);

// Sample i reads the `context` + 1 tokens from begin + i * stride: the input is all but the last of them, the
// target all but the first, so that every target is the token after its input.  With stride `context` every
// token is predicted once, apart from a rest shorter than a window.  A shift moves what read_at() gives, by
// the epoch of its positions; read() has none.
class TextSource : public Source {
 public:
  struct Range {
    int64_t begin, end;  // tokens of this split
  };

  // REQUIRES: a range of at least context + 1 tokens, context > 0, stride > 0.
  TextSource(std::shared_ptr<const TokenStore> tokens, Range range, const Windows& windows);

  int64_t size() const override { return size_; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return tokens_->vocabulary(); }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const override {
    read_at(indices, {}, fields);
  }
  void read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
               std::span<const ArrayView> fields) const override;
  std::unique_ptr<Records> records() const override;  // the tokens of the range

 private:
  class TokenRecords;
  int64_t shift_at(int64_t position) const;

  std::shared_ptr<const TokenStore> tokens_;
  Range range_;
  Windows windows_;
  int64_t shifts_, size_;
  std::vector<Field> fields_;
};

}  // namespace furrow::data
