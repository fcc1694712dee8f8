// Pixels and characters per second.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "furrow/preprocess/bpe_tokenizer.h"
#include "furrow/preprocess/image_normaliser.h"
#include "furrow/preprocess/tokenizer.h"

namespace furrow::preprocess {
namespace {

std::vector<uint8_t> pixels() {
  std::vector<uint8_t> all(64 * 784);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
  return all;
}

std::string text() {
  std::string all;
  for (size_t i = 0; i < 1000000; ++i) all.push_back(static_cast<char>(' ' + (i * 2654435761u >> 20) % 64));
  return all;
}

// A batch of 64 images that is in the cache.
void BM_Normalise(benchmark::State& state) {
  const std::vector<uint8_t> from = pixels();
  std::vector<float> to(from.size());
  const ImageNormaliser normaliser(0.286, 0.353);
  for (auto _ : state) {
    normaliser.apply(from, to);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(from.size()));
}
BENCHMARK(BM_Normalise)->Unit(benchmark::kMicrosecond);

void BM_PixelSums(benchmark::State& state) {
  const std::vector<uint8_t> from = pixels();
  PixelSums sums;
  for (auto _ : state) sums.add(from);
  benchmark::DoNotOptimize(sums.sum);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(from.size()));
}
BENCHMARK(BM_PixelSums)->Unit(benchmark::kMicrosecond);

void BM_FitChars(benchmark::State& state) {
  const std::string from = text();
  for (auto _ : state) benchmark::DoNotOptimize(CharTokenizer::fit(from));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(from.size()));
}
BENCHMARK(BM_FitChars)->Unit(benchmark::kMillisecond);

void BM_EncodeChars(benchmark::State& state) {
  const std::string from = text();
  const CharTokenizer tokenizer = CharTokenizer::fit(from);
  for (auto _ : state) {
    std::vector<uint32_t> ids;
    tokenizer.encode(from, ids);
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(from.size()));
}
BENCHMARK(BM_EncodeChars)->Unit(benchmark::kMillisecond);

// GPT-2's merges and English text, where FURROW_DATA has them.
void BM_EncodeGpt2(benchmark::State& state) {
  const char* root = std::getenv("FURROW_DATA");
  const auto slurp = [root](const char* name) {
    std::ifstream in(std::filesystem::path(root == nullptr ? "." : root) / name, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  };
  const std::string merges = slurp("gpt2-tokenizer/vocab.bpe"), from = slurp("sentencepiece/botchan.txt");
  if (merges.empty() || from.empty()) {
    state.SkipWithError("gpt2-tokenizer and sentencepiece are not in FURROW_DATA");
    return;
  }
  const BpeTokenizer tokenizer(merges);
  for (auto _ : state) {
    std::vector<uint32_t> ids;
    tokenizer.encode(from, ids);
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(from.size()));
}
BENCHMARK(BM_EncodeGpt2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace furrow::preprocess
