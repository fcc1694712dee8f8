// What a program adds to furrow's own tables: searched before them.
#pragma once

#include <vector>

#include "furrow/models/architectures.h"
#include "furrow/nn/block_torch.h"
#include "furrow/train/session.h"

namespace furrow::train {

struct Extensions {
  std::vector<models::Architecture> architectures;
  std::vector<nn::BlockKind>
      blocks;  // one for each unit kind of those architectures that furrow does not know
};

}  // namespace furrow::train
