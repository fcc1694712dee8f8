#include "furrow/data/text_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/process.h"
#include "furrow/data/files.h"
#include "furrow/data/parallel_source.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;
using preprocess::Tokenizer;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

bool is_text_name(const std::string& name) { return name.ends_with(".txt") || name.ends_with(".txt.gz"); }

std::string names_of(std::span<const fs::path> files) {
  return files.size() == 1 ? files[0].string()
                           : fmt::format("{} and {} more files", files[0].string(), files.size() - 1);
}

// Tells how far the files are read, by their bytes on disk, and ends the reading when it is cancelled.
class Progress {
 public:
  Progress(std::span<const fs::path> files, const WhileOpening& opening) : opening_(opening) {
    for (const fs::path& file : files) total_ += fs::file_size(file);
  }

  void begin(const fs::path& file) {
    before_ += bytes_;
    bytes_ = fs::file_size(file);
  }

  // `done` of the file's `contents`.
  void at(uint64_t done, uint64_t contents) const {
    if (opening_.cancel != nullptr && opening_.cancel->cancelled())
      throw Error(ErrorCode::kCancelled, "interrupted while the text was read: nothing is left behind");
    if (!opening_.progress || contents == 0 || total_ == 0) return;
    const double part = static_cast<double>(done) / static_cast<double>(contents);
    opening_.progress(before_ + static_cast<uint64_t>(part * static_cast<double>(bytes_)), total_);
  }

 private:
  const WhileOpening& opening_;
  uint64_t total_ = 0, before_ = 0, bytes_ = 0;
};

// A part of a file: a stretch of text, or documents.
struct Part {
  std::vector<std::string_view> pieces;
  uint64_t begin = 0;  // of the first, in the file
  std::vector<uint32_t> ids = {};
  std::vector<int64_t> ends = {};  // of documents, in `ids`
};

// Cuts texts into parts.
class Cutter {
 public:
  Cutter(const Tokenizer& tokenizer, const DatasetOptions& options)
      : tokenizer_(tokenizer), separator_(options.document_separator), bytes_(options.opening.part_bytes) {}

  // The parts of the front of `text`, which begins at byte `begin` of its file; `last`: all of it, as nothing
  // comes behind.  Returns how long that front is.
  size_t cut(std::string_view text, uint64_t begin, bool last, std::vector<Part>& parts) const {
    return separator_.empty() ? cut_stream(text, begin, last, parts)
                              : cut_documents(text, begin, last, parts);
  }

 private:
  size_t cut_stream(std::string_view text, uint64_t begin, bool last, std::vector<Part>& parts) const {
    size_t at = 0;
    while (at < text.size()) {
      size_t end = at + bytes_;
      while (end < text.size() && !tokenizer_.may_cut(text, end)) ++end;
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
  size_t cut_documents(std::string_view text, uint64_t begin, bool last, std::vector<Part>& parts) const {
    size_t at = 0, filled = bytes_;  // of the last part
    while (at < text.size()) {
      const size_t found = text.find(separator_, at);
      if (found == text.npos && !last) break;
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

  const Tokenizer& tokenizer_;
  std::string_view separator_;
  size_t bytes_;
};

// Begins and ends documents as [data] document_tokens says.
class DocumentEncoder {
 public:
  DocumentEncoder(const Tokenizer& tokenizer, const DatasetOptions& options)
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

  void encode(Part& part) const {
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

 private:
  static std::optional<uint32_t> required(std::optional<uint32_t> token, const char* what,
                                          const DatasetOptions& options) {
    if (token) return token;
    invalid(
        fmt::format("[data] document_tokens = {}: this tokenizer ({}) has no token for the {} of a text: use "
                    "gpt2, a SentencePiece model that has one, or none",
                    options.document_tokens, options.tokenizer, what));
  }

  void encode_document(std::string_view document, std::vector<uint32_t>& ids) const {
    if (begin_) ids.push_back(*begin_);
    if (end_ && document.ends_with(separator_)) document.remove_suffix(separator_.size());
    tokenizer_.encode(document, ids);
    if (end_) ids.push_back(*end_);
  }

  const Tokenizer& tokenizer_;
  std::string_view separator_;
  std::optional<uint32_t> begin_, end_;
};

// Appends up to `bytes` of `file` to `text`.  False at its end.
bool read_more(ContentStream& file, std::string& text, size_t bytes) {
  const size_t before = text.size();
  text.resize(before + bytes);
  const size_t got = file.read(std::as_writable_bytes(std::span(text).subspan(before)));
  text.resize(before + got);
  return got == bytes;
}

class TextTokeniser {
 public:
  TextTokeniser(const Tokenizer& tokenizer, const DatasetOptions& options)
      : cutter_(tokenizer, options),
        encoder_(tokenizer, options),
        pool_(options.opening.threads > 0 ? options.opening.threads : core_count()),
        round_bytes_(options.opening.part_bytes * static_cast<size_t>(pool_.readers()) * 2),
        builder_(tokenizer.vocabulary_size(), options.opening.spool) {}

  void read(const fs::path& path, Progress& progress) {
    ContentStream file(path);
    std::string text;
    uint64_t begin = 0;  // of `text` in the file
    size_t more = round_bytes_;
    for (bool last = false; !last;) {
      last = !read_more(file, text, more);
      std::vector<Part> parts;
      const size_t done = cutter_.cut(text, begin, last, parts);
      more = done == 0 ? std::max(text.size(), round_bytes_) : round_bytes_;  // a part longer than the text
      encode(parts);
      text.erase(0, done);
      begin += done;
      progress.at(begin, file.size());
    }
  }

  TokenisedText finish() { return {builder_.finish(), std::move(ends_)}; }

 private:
  void encode(std::vector<Part>& parts) {
    pool_.run(parts.size(), [&](size_t i) { encoder_.encode(parts[i]); });
    for (const Part& part : parts) {
      for (const int64_t end : part.ends) ends_.push_back(builder_.size() + end);
      builder_.append(part.ids);
    }
  }

  Cutter cutter_;
  DocumentEncoder encoder_;
  ReaderPool pool_;
  size_t round_bytes_;
  TokenBuilder builder_;
  std::vector<int64_t> ends_;
};

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && is_text_name(entry.path().filename().string()))
      files.push_back(entry.path());
  }
  std::ranges::sort(files, {}, [](const fs::path& file) { return file.string(); });
  if (!files.empty()) return files;
  throw Error(
      ErrorCode::kNotFound,
      fmt::format("{} holds no .txt and no .txt.gz: name the text in [training] dataset_path, or files "
                  "of that folder in [data] text_files",
                  folder.string()));
}

}  // namespace

std::vector<fs::path> text_files(const DatasetOptions& options) {
  if (options.text_files.empty()) {
    if (fs::is_directory(options.path)) return files_in(options.path);
    return {require_file(options.path)};
  }
  std::vector<fs::path> files;
  for (const std::string& name : options.text_files) files.push_back(require_file(options.path / name));
  return files;
}

std::set<char32_t> alphabet_of(std::span<const fs::path> files, const DatasetOptions& options) {
  std::set<char32_t> alphabet;
  Progress progress(files, options.opening);
  for (const fs::path& path : files) {
    progress.begin(path);
    ContentStream file(path);
    std::string text;
    uint64_t begin = 0;
    try {
      for (bool last = false; !last;) {
        last = !read_more(file, text, options.opening.part_bytes);
        size_t end = text.size();
        while (!last && end > 0 && (static_cast<unsigned char>(text[end - 1]) & 0xC0) == 0x80) --end;
        if (!last && end > 0) --end;  // whole characters
        if (end > 0) {
          const auto part = preprocess::CharTokenizer::fit(std::string_view(text).substr(0, end)).alphabet();
          alphabet.insert(part.begin(), part.end());
        }
        text.erase(0, end);
        begin += end;
        progress.at(begin, file.size());
      }
    } catch (const Error& error) {
      throw(begin > 0 ? error.with_context(fmt::format("counted from byte {}", begin)) : error)
          .with_context(path.string());
    }
  }
  if (alphabet.empty()) invalid(names_of(files) + " is empty: there is nothing to train on");
  return alphabet;
}

TokenisedText tokenise(std::span<const fs::path> files, const Tokenizer& tokenizer,
                       const DatasetOptions& options) {
  TextTokeniser reader(tokenizer, options);
  Progress progress(files, options.opening);
  for (const fs::path& file : files) {
    progress.begin(file);
    try {
      reader.read(file, progress);
    } catch (const Error& error) {
      throw error.with_context(file.string());
    }
  }
  TokenisedText text = reader.finish();
  if (!options.document_separator.empty() && text.ends.empty() && text.tokens->size() == 0) {
    invalid(
        fmt::format("{} holds no document, separators alone: [data] document_separator is the text that "
                    "ends one",
                    names_of(files)));
  }
  if (text.tokens->size() == 0) invalid(names_of(files) + " is empty: there is nothing to train on");
  return text;
}

}  // namespace furrow::data
