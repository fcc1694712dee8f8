// gunzip in GB/s of output, IDX batch conversion, the keyed order, and the loader end to end.  Images are
// made up (as many and as large as MNIST's), so that no data set is needed; gunzip takes Fashion-MNIST where
// it is installed.
#include <benchmark/benchmark.h>
#include <jpeglib.h>
#include <stddef.h>
#include <stdio.h>

#include <algorithm>
#include <string>

#include "furrow/data/dataset.h"
#include "furrow/data/gzip.h"
#include "furrow/data/loader.h"
#include "furrow/data/pack.h"
#include "furrow/data/test_files.h"

namespace furrow::data {
namespace {

using testing::ByteVector;

constexpr uint32_t kImages = 60000, kSide = 28;

// 60,000 made-up images; built once.
const Dataset& images() {
  static const Dataset dataset = [] {
    const testing::TempFolder folder;
    ByteVector pixels(size_t{kImages} * kSide * kSide), labels(kImages);
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
    for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<uint8_t>(i % 10);
    folder.write("train-images-idx3-ubyte", testing::idx_bytes(8, {kImages, kSide, kSide}, pixels));
    folder.write("train-labels-idx1-ubyte", testing::idx_bytes(8, {kImages}, labels));
    return open_dataset({.kind = "idx", .path = folder.path()});
  }();
  return dataset;
}

void BM_Gunzip(benchmark::State& state) {
  const auto folder = testing::real_data("fashion-mnist");
  if (folder.empty()) {
    state.SkipWithError("Debian package dataset-fashion-mnist is not installed");
    return;
  }
  const Bytes file = read_file(folder / "train-images-idx3-ubyte.gz");
  int64_t bytes = 0;
  for (auto _ : state) bytes += static_cast<int64_t>(gunzip(file.contents).contents.size());
  state.SetBytesProcessed(bytes);
}
BENCHMARK(BM_Gunzip)->Unit(benchmark::kMillisecond);

// Opening the whole set: read, decompress, check, carve, fit.
void BM_OpenFashionMnist(benchmark::State& state) {
  const auto folder = testing::real_data("fashion-mnist");
  if (folder.empty()) {
    state.SkipWithError("Debian package dataset-fashion-mnist is not installed");
    return;
  }
  for (auto _ : state) {
    benchmark::DoNotOptimize(open_dataset({.kind = "idx", .path = folder, .validation_fraction = 0.1}));
  }
}
BENCHMARK(BM_OpenFashionMnist)->Unit(benchmark::kMillisecond);

// One batch in shuffled order, in the caller's thread.
void BM_ReadImages(benchmark::State& state) {
  const auto rows = static_cast<size_t>(state.range(0));
  const Source& source = *images().train;
  const SampleOrder order(1, source.size(), true);
  testing::ReadBuffers buffers(source, rows);
  std::vector<int64_t> indices(rows);
  int64_t position = 0;
  for (auto _ : state) {
    order.indices(position, indices);
    source.read(indices, buffers.views);
    position += static_cast<int64_t>(rows);
  }
  state.SetItemsProcessed(position);
}
BENCHMARK(BM_ReadImages)->Arg(64)->Arg(128)->Unit(benchmark::kMicrosecond);

void BM_Order(benchmark::State& state) {
  const SampleOrder order(1, state.range(0), true);
  std::vector<int64_t> indices(64);
  int64_t position = 0;
  for (auto _ : state) {
    order.indices(position, indices);
    benchmark::DoNotOptimize(indices.data());
    position += 64;
  }
  state.SetItemsProcessed(position);
}
BENCHMARK(BM_Order)->Arg(54000)->Arg(1003790);

// What a consumer sees that does nothing else: samples per second, thread or not.
void BM_Loader(benchmark::State& state) {
  const Source& source = *images().train;
  Loader loader(source, SampleOrder(1, source.size(), true),
                {.sizes = {64}, .prefetch = static_cast<int>(state.range(0))});
  int64_t samples = 0;
  for (auto _ : state) {
    samples += loader.next()->weight;
    loader.release();
  }
  state.SetItemsProcessed(samples);
}
BENCHMARK(BM_Loader)
    ->ArgName("prefetch")
    ->Arg(0)
    ->Arg(2)
    ->Arg(4)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

// `count` photographs of 256 x 256 (smooth, with some noise) in a folder of two classes.
void write_photographs(const std::filesystem::path& folder, int count) {
  constexpr JDIMENSION kEdge = 256;
  std::vector<uint8_t> pixels(kEdge * kEdge * 3);
  for (int i = 0; i < count; ++i) {
    for (size_t p = 0; p < pixels.size(); ++p) {
      const size_t x = p / 3 % kEdge, y = p / 3 / kEdge;
      pixels[p] = static_cast<uint8_t>((x * (p % 3 + 1) + y * 2 + (p * 2654435761u >> 28)) % 256);
    }
    const auto path = folder / (i % 2 == 0 ? "a" : "b") / (std::to_string(i) + ".jpg");
    std::filesystem::create_directories(path.parent_path());
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    jpeg_compress_struct jpeg{};
    jpeg_error_mgr errors{};
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_width = jpeg.image_height = kEdge;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < kEdge) {
      JSAMPROW row = pixels.data() + jpeg.next_scanline * kEdge * 3;
      jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    std::fclose(file);
  }
}

// Decoding, scaling and normalising JPEG files, by the number of threads that do it.
void BM_DecodeJpegs(benchmark::State& state) {
  static const testing::TempFolder folder;
  static const bool written = [] {
    write_photographs(folder / "photographs", 64);
    return true;
  }();
  benchmark::DoNotOptimize(written);
  const Dataset dataset = open_dataset({.kind = "folder",
                                        .path = folder / "photographs",
                                        .readers = static_cast<int>(state.range(0)),
                                        .image_size = 224});
  Loader loader(*dataset.train, SampleOrder(1, dataset.train->size(), true), {.sizes = {32}, .prefetch = 2});
  int64_t samples = 0;
  for (auto _ : state) {
    samples += loader.next()->weight;
    loader.release();
  }
  state.SetItemsProcessed(samples);
}
BENCHMARK(BM_DecodeJpegs)
    ->ArgName("readers")
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// Regions of the same files at random, flipped, from a pack of them (1) or from the folder (0).
void BM_RegionsOfJpegs(benchmark::State& state) {
  static const testing::TempFolder folder;
  DatasetOptions options{.kind = "folder", .path = folder / "photographs", .image_size = 224};
  options.keep_files = true;
  static const bool written = [&options] {
    write_photographs(folder / "photographs", 64);
    write_pack(open_dataset(options), {.folder = (folder / "pack").string(), .kind = "folder", .threads = 2});
    return true;
  }();
  benchmark::DoNotOptimize(written);
  options.readers = static_cast<int>(state.range(1));
  options.augmentation.resized_crop = options.augmentation.flip = true;
  if (state.range(0) == 1) {
    options.kind = "pack";
    options.path = folder / "pack";
  }
  const Dataset dataset = open_dataset(options);
  Loader loader(*dataset.train, SampleOrder(1, dataset.train->size(), true), {.sizes = {32}, .prefetch = 2});
  int64_t samples = 0;
  for (auto _ : state) {
    samples += loader.next()->weight;
    loader.release();
  }
  state.SetItemsProcessed(samples);
}
BENCHMARK(BM_RegionsOfJpegs)
    ->ArgNames({"pack", "readers"})
    ->ArgsProduct({{0, 1}, {1, 2}})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);

// The same images from a pack: mapped (0), streamed by one reader or more.  Stored bytes per second.
void BM_LoaderOfAPack(benchmark::State& state) {
  static const testing::TempFolder folder;
  static const bool written = [] {
    write_pack(images(), {.folder = (folder / "pack").string(), .kind = "idx", .threads = 2});
    return true;
  }();
  benchmark::DoNotOptimize(written);
  const auto readers = static_cast<int>(state.range(0));
  const Dataset dataset = open_dataset({.kind = "pack",
                                        .path = folder / "pack",
                                        .memory_budget = readers == 0 ? 0u : 1u,
                                        .readers = std::max(readers, 1)});
  Loader loader(*dataset.train, SampleOrder(1, dataset.train->size(), true), {.sizes = {64}, .prefetch = 4});
  int64_t samples = 0;
  for (auto _ : state) {
    samples += loader.next()->weight;
    loader.release();
  }
  state.SetItemsProcessed(samples);
  state.SetBytesProcessed(samples * (kSide * kSide + 4));
}
BENCHMARK(BM_LoaderOfAPack)
    ->ArgName("readers")
    ->Arg(0)
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace furrow::data
