#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "furrow/base/error.h"
#include "furrow/models/llama2c.h"

// A file that is accepted holds exactly the parameters of its sizes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const furrow::models::ForeignModel model =
        furrow::models::parse_llama2c({reinterpret_cast<const std::byte*>(data), size});
    size_t bytes = 0;
    for (const furrow::models::NamedParameter& parameter : model.parameters)
      bytes += parameter.read().bytes().size();
    if (bytes > size) std::abort();
  } catch (const furrow::Error&) {
  }
  return 0;
}
