// The compact form of a source: records of a fixed size, which a pack stores as they are.  Images are bytes
// with a label, text is tokens, everything else is samples as read() gives them.
//
// A record is its fields one after the other, without padding, little-endian.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/data/source.h"

namespace furrow::data {

// The layouts, as pack.json names them; packed_source.cc has a row for each but the last.
inline constexpr std::string_view kImageRecords = "images";        // "pixels" u8 [c, h, w], "label" i32 []
inline constexpr std::string_view kTokenRecords = "tokens";        // "token" u8 [width]
inline constexpr std::string_view kDocumentRecords = "documents";  // the same, and where documents end
inline constexpr std::string_view kEncodedRecords = "encoded";  // "byte" u8 [] of image files, and an index
inline constexpr std::string_view kSampleRecords = "samples";   // the fields of the source
inline constexpr std::string_view kMixedRecords = "mixture";    // those of its sets, each with a layout

// Thread safe, like the source it is of, which must outlive it.
class Records {
 public:
  virtual ~Records() = default;
  virtual std::string_view layout() const = 0;
  virtual const std::vector<Field>& fields() const = 0;
  virtual int64_t size() const = 0;
  // Records first, first + 1, ... as many as fill `out`.  REQUIRES: whole records, in range.
  virtual void read(int64_t first, std::span<std::byte> out) const = 0;

  // Of documents and image files: where each ends, a split more (kEndsSuffix); else null.
  virtual std::unique_ptr<Records> index() const { return nullptr; }
  // What else a reader must know, for that of the pack.
  virtual std::map<std::string, std::string> lineage() const { return {}; }

  size_t record_bytes() const;
};

// An index is packed as a split of its own, called as the split that it is of with this behind.  Of
// documents: records "end" i64 [], of image files those of encoded_index.h.
inline constexpr std::string_view kEndsSuffix = ".ends";
std::vector<Field> document_end_fields();

// The splits of set `i` of a mixture are called as those of the mixture with this behind, before kEndsSuffix.
std::string part_suffix(size_t i);

// Samples of `source` in its own order, each as read() gives it.
class SampleRecords : public Records {
 public:
  explicit SampleRecords(const Source& source) : source_(source) {}
  std::string_view layout() const override { return kSampleRecords; }
  const std::vector<Field>& fields() const override { return source_.fields(); }
  int64_t size() const override { return source_.size(); }
  void read(int64_t first, std::span<std::byte> out) const override;

 private:
  const Source& source_;
};

}  // namespace furrow::data
