// Tokens of a text on their way into a pack, in a folder that outlives the process: what was tokenised once
// is not tokenised again.
//
//   text-<identity>.tokens   as TokenStore::raw() gives them
//   text-<identity>.journal  a record after each stretch of them, see token_spool.cc
//
// Of what a killed process leaves, everything is kept up to the last record that agrees, with the tokens
// before it, with its checksums.  One process at a time (data/pack.h holds the folder).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/descriptor.h"
#include "furrow/base/hash.h"
#include "furrow/data/text.h"

namespace furrow::data {

inline constexpr std::string_view kSpoolPrefix = "text-";  // of everything that reading a text leaves

class TokenSpool : public TokenSink {
 public:
  // `identity` says whose tokens they are: of which files, by which tokenizer.  `between` is called while
  // what is there is compared, with the bytes done and in all.
  TokenSpool(const std::filesystem::path& folder, const std::string& identity, int64_t vocabulary,
             const std::function<void(uint64_t done, uint64_t total)>& between);
  ~TokenSpool() override;
  TokenSpool(const TokenSpool&) = delete;
  TokenSpool& operator=(const TokenSpool&) = delete;

  TextPlace place() const { return place_; }                  // where to go on
  const std::vector<int64_t>& ends() const { return ends_; }  // of the documents that are there
  int64_t size() const override { return size_; }
  void append(std::span<const uint32_t> ids) override;  // Error{resource_exhausted}: the disk is full
  void mark(TextPlace place, std::span<const int64_t> ends) override;
  std::shared_ptr<const TokenStore> finish() override;
  void discard();  // removes the files

 private:
  struct Record;
  void keep_whole(const std::function<void(uint64_t done, uint64_t total)>& between);
  bool agrees(const Record& record, const std::function<void(uint64_t)>& between) const;

  int64_t vocabulary_, size_ = 0;
  std::string tokens_path_, journal_path_;
  Descriptor tokens_, journal_;
  TextPlace place_;
  std::vector<int64_t> ends_;
  uint64_t chain_ = 0;  // checksum of the last record
  std::unique_ptr<Xxh3Stream> stretch_;
};

}  // namespace furrow::data
