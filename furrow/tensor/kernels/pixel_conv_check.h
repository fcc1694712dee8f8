#pragma once

#include "furrow/tensor/kernels/pixel_conv.h"

namespace furrow::tensor::kernels {

// Error{invalid_argument} for a shape that the convolutions over pixels do not take.
void check_pixel_conv_shape(const PixelConvShape& shape);

}  // namespace furrow::tensor::kernels
