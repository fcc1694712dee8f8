// Parts of a text file, small enough that several are worked on side by side, and their tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::data {

// A stretch of text, or documents.
struct TextPart {
  std::vector<std::string_view> pieces;
  uint64_t begin = 0;  // of the first, in the file
  std::vector<uint32_t> ids = {};
  std::vector<int64_t> ends = {};  // of documents, in `ids`
};

// Cuts texts into parts; the options outlive it.
class TextCutter {
 public:
  using MayCut = std::function<bool(std::string_view text, size_t at)>;
  TextCutter(MayCut may_cut, const DatasetOptions& options)
      : may_cut_(std::move(may_cut)),
        separator_(options.document_separator),
        bytes_(options.opening.part_bytes) {}

  // The parts of the front of `text`, which begins at byte `begin` of its file; `last`: all of it, as nothing
  // comes behind.  Returns how long that front is.
  size_t cut(std::string_view text, uint64_t begin, bool last, std::vector<TextPart>& parts);
  // Has a document separator been found?
  bool separated() const { return separated_; }

 private:
  size_t cut_stream(std::string_view text, uint64_t begin, bool last, std::vector<TextPart>& parts) const;
  size_t cut_documents(std::string_view text, uint64_t begin, bool last, std::vector<TextPart>& parts);

  MayCut may_cut_;
  std::string_view separator_;
  size_t bytes_;
  bool separated_ = false;
};

// Begins and ends documents as [data] document_tokens says; tokenizer and options outlive it.
class DocumentEncoder {
 public:
  // Error{invalid_argument}: the tokenizer has no such tokens, or nothing says where documents end.
  DocumentEncoder(const preprocess::Tokenizer& tokenizer, const DatasetOptions& options);
  void encode(TextPart& part) const;  // errors of the tokenizer, with the place

 private:
  void encode_document(std::string_view document, std::vector<uint32_t>& ids) const;

  const preprocess::Tokenizer& tokenizer_;
  std::string_view separator_;
  std::optional<uint32_t> begin_, end_;
};

}  // namespace furrow::data
