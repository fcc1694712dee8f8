// How far results may lie from the exact ones where an operation of ours orders its sums differently from
// libtorch's.
//
// For a tensor with float64 reference r: max |ours - r| <= kErrorFactor * max |libtorch's float32 - r|
//                                                          + kFloorUlps * 2^-23 * max |r|.
#pragma once

namespace furrow::tensor {

inline constexpr double kErrorFactor = 2;
inline constexpr double kFloorUlps = 16;

}  // namespace furrow::tensor
