// The first byte picks: 'c' a config.json, 'i' an index of shards.  A configuration that is accepted
// describes a model, or is refused for a combination that none has; an index names files of its folder alone.
#include <cstddef>
#include <cstdint>
#include <string>

#include "apps/furrow/hugging_face_files.h"
#include "furrow/base/error.h"
#include "furrow/models/architectures.h"

namespace {

using namespace furrow;

void as_config(const std::string& json) {
  const models::ForeignModel model = app::parse_hugging_face_config(json);
  const plan::ModelSpec spec =
      models::describe(model.model, {{DType::kI64, {-1, model.context}}, model.vocabulary});
  FURROW_CHECK(static_cast<int64_t>(spec.units.size()) == model.model.layers + 2, "units that no layer has");
}

void as_index(const std::string& json) {
  for (const std::string& name : app::parse_hugging_face_index(json))
    FURROW_CHECK(!name.empty() && name.find('/') == std::string::npos, "a file outside");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    data[0] == 'i' ? as_index(rest) : as_config(rest);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() != ErrorCode::kInternal, error.what());
  }
  return 0;
}
