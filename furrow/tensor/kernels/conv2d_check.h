// Shared by the convolutions' files.
#pragma once

#include "furrow/tensor/kernels/conv2d.h"

namespace furrow::tensor::kernels {

// Throws Error{invalid_argument} that names the sizes when they break the REQUIRES of conv2d.h.
void check_conv2d_shape(const Conv2dShape& shape);

}  // namespace furrow::tensor::kernels
