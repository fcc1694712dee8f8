// Is this a build with a sanitizer?  Those look for races and bad accesses, which a part of a large product
// of cases has as much as all of it.
#pragma once

namespace furrow::testing {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace furrow::testing
