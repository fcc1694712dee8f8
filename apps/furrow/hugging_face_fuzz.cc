// The first byte picks: 'c' a config.json, 'i' an index of shards, 'a' an adapter_config.json of PEFT.  A
// configuration that is accepted describes a model, or is refused for a combination that none has; an index
// names files of its folder alone; adapters have a rank and an alpha.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "apps/furrow/hugging_face_files.h"
#include "furrow/base/error.h"
#include "furrow/models/architectures.h"
#include "furrow/train/peft_config.h"

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

void as_adapters(const std::string& json) {
  const train::PeftConfig config = train::parse_peft_config(json);
  FURROW_CHECK(std::isfinite(config.rank) && std::isfinite(config.alpha), "a rank or alpha");
}

using Parse = void (*)(const std::string& json);
Parse parse_of(uint8_t kind) { return kind == 'i' ? &as_index : kind == 'a' ? &as_adapters : &as_config; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    parse_of(data[0])(rest);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() != ErrorCode::kInternal, error.what());
  }
  return 0;
}
