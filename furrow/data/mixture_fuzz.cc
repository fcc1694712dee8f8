// Entries of a mixture: refused with Error{invalid_argument}, or what they say reads back as the same.
#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/open_mixture.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  try {
    const data::MixtureEntry entry =
        data::parse_mixture_entry(std::string(reinterpret_cast<const char*>(data), size));
    FURROW_CHECK(entry.weight > 0 && !entry.name.empty() && !entry.path.empty(),
                 "an entry without its parts");
    const data::MixtureEntry again = data::parse_mixture_entry(
        entry.name + ": " + entry.kind + " weight=" + format_double(entry.weight) + " path=" + entry.path);
    FURROW_CHECK(again.name == entry.name && again.kind == entry.kind && again.weight == entry.weight &&
                     again.path == entry.path,
                 "an entry that reads back as another");
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kInvalidArgument, "an error of another code");
  }
  return 0;
}
