#include "furrow/data/text_parts.h"

#include <fmt/format.h>

#include "furrow/base/error.h"

namespace furrow::data {
namespace {

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

uint32_t required(std::optional<uint32_t> token, const char* what, const DatasetOptions& options) {
  if (token) return *token;
  invalid(fmt::format(
      "[data] document_tokens = {}: this tokenizer ({}) has no token for the {} of a text: use "
      "gpt2, hf with a tokenizer_config.json that names one, a SentencePiece model that has one, or none",
      options.document_tokens, options.tokenizer, what));
}

}  // namespace

size_t TextCutter::cut(std::string_view text, uint64_t begin, bool last, std::vector<TextPart>& parts) {
  return separator_.empty() ? cut_stream(text, begin, last, parts) : cut_documents(text, begin, last, parts);
}

size_t TextCutter::cut_stream(std::string_view text, uint64_t begin, bool last,
                              std::vector<TextPart>& parts) const {
  size_t at = 0;
  while (at < text.size()) {
    size_t end = at + bytes_;
    while (end < text.size() && !may_cut_(text, end)) ++end;
    if (end >= text.size()) {
      if (!last) break;
      end = text.size();
    }
    parts.push_back({{text.substr(at, end - at)}, begin + at});
    at = end;
  }
  return at;
}

// Empty documents are left out.
size_t TextCutter::cut_documents(std::string_view text, uint64_t begin, bool last,
                                 std::vector<TextPart>& parts) {
  size_t at = 0, filled = bytes_;  // of the last part
  while (at < text.size()) {
    const size_t found = text.find(separator_, at);
    if (found == text.npos && !last) break;
    separated_ = separated_ || found != text.npos;
    const size_t end = found == text.npos ? text.size() : found + separator_.size();
    if (found != at) {
      if (filled >= bytes_) {
        parts.push_back({{}, begin + at});
        filled = 0;
      }
      parts.back().pieces.push_back(text.substr(at, end - at));
      filled += end - at;
    }
    at = end;
  }
  return at;
}

DocumentEncoder::DocumentEncoder(const preprocess::Tokenizer& tokenizer, const DatasetOptions& options)
    : tokenizer_(tokenizer), separator_(options.document_separator) {
  if (options.document_tokens == "none") return;
  if (separator_.empty()) {
    invalid(
        fmt::format("[data] document_tokens = {} stand around documents: say with document_separator what "
                    "ends one",
                    options.document_tokens));
  }
  end_ = required(tokenizer.end_token(), "end", options);
  if (options.document_tokens == "begin_end")
    begin_ = required(tokenizer.begin_token(), "beginning", options);
}

void DocumentEncoder::encode(TextPart& part) const {
  for (const std::string_view piece : part.pieces) {
    const uint64_t at = part.begin + static_cast<uint64_t>(piece.data() - part.pieces[0].data());
    try {
      separator_.empty() ? tokenizer_.encode(piece, part.ids) : encode_document(piece, part.ids);
    } catch (const Error& error) {
      if (separator_.empty() && at == 0) throw;
      throw error.with_context(
          fmt::format("{} byte {}", separator_.empty() ? "counted from" : "the document at", at));
    }
    if (!separator_.empty()) part.ends.push_back(static_cast<int64_t>(part.ids.size()));
  }
}

void DocumentEncoder::encode_document(std::string_view document, std::vector<uint32_t>& ids) const {
  if (begin_) ids.push_back(*begin_);
  if (end_ && document.ends_with(separator_)) document.remove_suffix(separator_.size());
  tokenizer_.encode(document, ids);
  if (end_) ids.push_back(*end_);
}

}  // namespace furrow::data
