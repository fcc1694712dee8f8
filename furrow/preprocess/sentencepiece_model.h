// The bytes of a SentencePiece model, looked at before the library takes them: it reads models that were cut
// off between two pieces, or that have a piece twice, as if they were whole.
#pragma once

#include <string_view>

namespace furrow::preprocess {

// Error{data_loss} says what is wrong and where, unless `model` is a ModelProto of sentencepiece_model.proto
// (https://github.com/google/sentencepiece) that is whole: pieces, each once, not empty, UTF-8, of a known
// type and with a finite score, exactly one of them for the unknown, where trainer_spec says that it is; as
// many as trainer_spec says; and behind them trainer_spec and normalizer_spec, which a file that was cut off
// does not have.  There is no checksum: another letter or another score in a piece cannot be seen.
void check_sentencepiece_model(std::string_view model);

}  // namespace furrow::preprocess
