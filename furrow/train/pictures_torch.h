// What a trained model says about its data, drawn into the run folder when a run ends: a confusion matrix and
// a grid of samples of a classifier, text that a language model writes, samples that a generator makes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/data/dataset.h"
#include "furrow/train/model_state_torch.h"
#include "furrow/train/rank_context.h"

namespace furrow::train {

struct PictureRequest {
  ModelState& model;  // every unit whole
  const data::Dataset& dataset;
  const RankContext& rank;
  std::string folder;
  int64_t batch_size = 1;
  // A text ends where its forwards have cost more: a minute or so of two cores, whatever the model.
  double most_text_flops = 4e12;
  bool documents_end = false;  // with the tokenizer's token for that, where a text then ends too
};

// Draws what fits the data, on the test split, else on that held back for validation; a data set without
// either, and one whose targets are numbers, has no pictures.  Returns the names of the files.  A pure
// function of model, data and seed.  Error{cancelled} when the rank was asked to stop.
std::vector<std::string> draw_pictures(const PictureRequest& request);

}  // namespace furrow::train
