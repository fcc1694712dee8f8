#include "furrow/data/text_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/hash.h"
#include "furrow/base/log.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/data/files.h"
#include "furrow/data/opening.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/text_parts.h"
#include "furrow/data/token_spool.h"

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
    at(0);
  }

  // `taken` of the file's bytes.
  void at(uint64_t taken) const { tell(before_ + std::min(taken, bytes_), total_); }

  void tell(uint64_t done, uint64_t total) const {
    check();
    if (opening_.progress && total > 0) opening_.progress(done, total);
  }

  // Thread safe.  Error{cancelled}.
  void check() const { check_cancelled(opening_, "the text was read", opening_.spool); }

 private:
  const WhileOpening& opening_;
  uint64_t total_ = 0, before_ = 0, bytes_ = 0;
};

int threads_of(const WhileOpening& opening) { return opening.threads > 0 ? opening.threads : core_count(); }

// Appends up to `bytes` of `file` to `text`.  False at its end.
bool read_more(ContentStream& file, std::string& text, size_t bytes) {
  const size_t before = text.size();
  text.resize(before + bytes);
  const size_t got = file.read(std::as_writable_bytes(std::span(text).subspan(before)));
  text.resize(before + got);
  return got == bytes;
}

// The parts of a file that are worked on side by side, and where the text goes on behind them.
struct Round {
  std::vector<TextPart> parts;
  uint64_t begin = 0, end = 0;
  bool last = false;    // of the file
  bool marked = false;  // a byte order mark was in front
};

// UTF-8's byte order mark, which editors put in front of a file: no character of its text.
constexpr std::string_view kMark = "\xef\xbb\xbf";

// All of a file from byte `begin` of its contents on, without a byte order mark in front.
void read_rounds(ContentStream& file, uint64_t begin, size_t round_bytes, TextCutter& cutter,
                 const std::function<void(Round&)>& take) {
  std::string text;
  size_t more = round_bytes;
  for (Round round{.parts = {}, .begin = begin}; !round.last; round.begin = round.end) {
    round.last = !read_more(file, text, std::max(more, kMark.size()));
    if (round.begin == 0 && text.starts_with(kMark)) {
      text.erase(0, kMark.size());
      round.begin = kMark.size();
      round.marked = true;
    } else {
      round.marked = false;
    }
    round.parts.clear();
    const size_t done = cutter.cut(text, round.begin, round.last, round.parts);
    more = done == 0 ? std::max(text.size(), round_bytes) : round_bytes;  // a part longer than the text
    round.end = round.begin + done;
    take(round);
    text.erase(0, done);
  }
}

// Whose tokens or characters a spool holds.
std::string identity_of(std::span<const fs::path> files, const DatasetOptions& options,
                        const preprocess::State& tokenizer) {
  JsonWriter json;
  json.begin_array().value(options.document_separator).value(options.document_tokens);
  for (const fs::path& file : files) json.value(stamp_of(file));
  for (const auto& [name, value] : tokenizer) json.value(name).value(value);
  return to_hex(xxh3_128(json.end_array().text()));
}

class TextTokeniser {
 public:
  TextTokeniser(std::span<const fs::path> files, const Tokenizer& tokenizer, const DatasetOptions& options)
      : files_(files),
        cutter_([&tokenizer](std::string_view text, size_t at) { return tokenizer.may_cut(text, at); },
                options),
        encoder_(tokenizer, options),
        pool_(threads_of(options.opening)),
        round_bytes_(options.opening.part_bytes * static_cast<size_t>(pool_.readers()) * 2),
        progress_(files, options.opening),
        separator_(options.document_separator) {
    if (options.opening.spool.empty()) {
      auto builder = std::make_unique<TokenBuilder>(tokenizer.vocabulary_size(), options.opening.share);
      builder_ = builder.get();
      sink_ = std::move(builder);
      return;
    }
    auto spool = std::make_unique<TokenSpool>(
        options.opening.spool, identity_of(files, options, tokenizer.state()), tokenizer.vocabulary_size(),
        [this](uint64_t done, uint64_t total) { progress_.tell(done, total); });
    place_ = spool->place();
    resumed_ = place_.file > 0 || place_.byte > 0;
    ends_ = spool->ends();
    spool_ = spool.get();
    sink_ = std::move(spool);
  }

  TokenisedText read() {
    for (uint64_t i = 0; i < files_.size(); ++i) {
      progress_.begin(files_[i]);
      if (i < place_.file) continue;  // it was read before
      try {
        read_file(i, i == place_.file ? place_.byte : 0);
      } catch (const Error& error) {
        const bool goes_on =
            error.code() == ErrorCode::kCancelled || error.code() == ErrorCode::kResourceExhausted;
        if (spool_ != nullptr && !goes_on) spool_->discard();
        throw error.with_context(files_[i].string());
      }
    }
    say_what_was_found();
    auto tokens = sink_->finish();
    return {std::move(tokens), std::move(ends_), builder_ == nullptr ? "" : builder_->place()};
  }

 private:
  void say_what_was_found() const {
    if (marked_ > 0) {
      log_info(fmt::format("{} with a byte order mark in front, which is left out: {}",
                           marked_ == 1 ? "a file" : fmt::format("{} files", marked_), first_marked_));
    }
    if (separator_.empty() || cutter_.separated() || resumed_) return;
    log_warning(fmt::format("[data] document_separator = {} does not occur in {}: every file is one document",
                            json_quote(separator_), names_of(files_)));
  }

  void read_file(uint64_t number, uint64_t begin) {
    ContentStream file(files_[number]);
    if (begin > 0) file.skip(begin, [&] { progress_.at(file.taken()); });
    read_rounds(file, begin, round_bytes_, cutter_, [&](Round& round) {
      if (round.marked && marked_++ == 0) first_marked_ = files_[number].string();
      encode(round, round.last ? TextPlace{number + 1, 0} : TextPlace{number, round.end});
      progress_.at(file.taken());
    });
  }

  void encode(Round& round, TextPlace behind) {
    pool_.run(round.parts.size(), [&](size_t i) {
      progress_.check();
      encoder_.encode(round.parts[i]);
    });
    const size_t before = ends_.size();
    for (const TextPart& part : round.parts) {
      for (const int64_t end : part.ends) ends_.push_back(sink_->size() + end);
      sink_->append(part.ids);
    }
    sink_->mark(behind, std::span(ends_).subspan(before));
  }

  std::span<const fs::path> files_;
  TextCutter cutter_;
  DocumentEncoder encoder_;
  ReaderPool pool_;
  size_t round_bytes_;
  Progress progress_;
  std::unique_ptr<TokenSink> sink_;
  TokenSpool* spool_ = nullptr;            // where `sink_` is one
  const TokenBuilder* builder_ = nullptr;  // else
  TextPlace place_;                        // where reading begins
  std::string_view separator_;
  bool resumed_ = false;  // an earlier reader read a part
  int64_t marked_ = 0;    // files with a byte order mark
  std::string first_marked_;
  std::vector<int64_t> ends_;
};

// What people's programs leave beside texts, such as "._a.txt" and ".ipynb_checkpoints", is none of them.
std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  const fs::recursive_directory_iterator end;
  for (fs::recursive_directory_iterator at(folder); at != end; ++at) {
    const std::string name = at->path().filename().string();
    if (name.starts_with('.'))
      at.disable_recursion_pending();
    else if (at->is_regular_file() && is_text_name(name))
      files.push_back(at->path());
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

namespace {

using Alphabet = std::set<char32_t>;

bool begins_character(std::string_view text, size_t at) {
  return (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
}

// The characters of a part, into its ids.
void find_characters(TextPart& part) {
  try {
    const auto found = preprocess::CharTokenizer::fit(part.pieces[0]).alphabet();
    part.ids.assign(found.begin(), found.end());
  } catch (const Error& error) {
    throw part.begin > 0 ? error.with_context(fmt::format("counted from byte {}", part.begin)) : error;
  }
}

Alphabet read_alphabet(std::span<const fs::path> files, const DatasetOptions& options) {
  DatasetOptions stream = options;
  stream.document_separator.clear();
  TextCutter cutter(&begins_character, stream);
  ReaderPool pool(threads_of(options.opening));
  const size_t round_bytes = options.opening.part_bytes * static_cast<size_t>(pool.readers()) * 2;
  Progress progress(files, options.opening);
  Alphabet alphabet;
  for (const fs::path& path : files) {
    progress.begin(path);
    try {
      ContentStream file(path);
      read_rounds(file, 0, round_bytes, cutter, [&](Round& round) {
        pool.run(round.parts.size(), [&](size_t i) { find_characters(round.parts[i]); });
        for (const TextPart& part : round.parts) alphabet.insert(part.ids.begin(), part.ids.end());
        progress.at(file.taken());
      });
    } catch (const Error& error) {
      throw error.with_context(path.string());
    }
  }
  if (alphabet.empty()) invalid(names_of(files) + " is empty: there is nothing to train on");
  return alphabet;
}

// As an interrupted reader of the same files left it, its checksum in front; empty where there is none.
Alphabet kept_alphabet(const fs::path& path) {
  if (!fs::exists(path)) return {};
  constexpr size_t kChecksum = 17;  // digits and a line's end
  const std::string text = furrow::read_file(path.string());
  uint64_t checksum = 0;
  if (text.size() < kChecksum || !parse_hex(std::string_view(text).substr(0, kChecksum - 1), checksum))
    return {};
  const std::string numbers = text.substr(kChecksum);
  if (xxh3_64(numbers) != checksum) return {};
  const auto tokenizer =
      preprocess::load_as<preprocess::CharTokenizer>({{"kind", "char"}, {"alphabet", numbers}});
  return {tokenizer->alphabet().begin(), tokenizer->alphabet().end()};
}

}  // namespace

std::set<char32_t> alphabet_of(std::span<const fs::path> files, const DatasetOptions& options) {
  if (options.opening.spool.empty()) return read_alphabet(files, options);
  const fs::path path =
      options.opening.spool / fmt::format("{}{}.alphabet", kSpoolPrefix, identity_of(files, options, {}));
  Alphabet alphabet = kept_alphabet(path);
  if (!alphabet.empty()) return alphabet;
  alphabet = read_alphabet(files, options);
  const auto state = preprocess::CharTokenizer({alphabet.begin(), alphabet.end()}).state();
  const std::string& numbers = state.at("alphabet");
  write_file_atomic(path.string(), to_hex(xxh3_64(numbers)) + "\n" + numbers);
  return alphabet;
}

TokenisedText tokenise(std::span<const fs::path> files, const Tokenizer& tokenizer,
                       const DatasetOptions& options) {
  if (!options.opening.shared.empty()) {
    if (auto mapped = map_text(options.opening.shared, tokenizer.vocabulary_size()))
      return {std::move(mapped->tokens), std::move(mapped->ends)};
  }
  TokenisedText text = TextTokeniser(files, tokenizer, options).read();
  if (!options.document_separator.empty() && text.ends.empty() && text.tokens->size() == 0) {
    invalid(
        fmt::format("{} holds no document, separators alone: [data] document_separator is the text that "
                    "ends one; choose another, or leave it empty to read the text as one stream",
                    names_of(files)));
  }
  if (text.tokens->size() == 0) invalid(names_of(files) + " is empty: there is nothing to train on");
  return text;
}

}  // namespace furrow::data
