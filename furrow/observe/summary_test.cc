#include "furrow/observe/summary.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "furrow/base/error.h"

namespace furrow::observe {
namespace {

Summary full() {
  Summary summary;
  summary.name = "convnet-001";
  summary.status = "finished";
  summary.steps = 9380;
  summary.samples = 600320;
  summary.loss = 0.1;
  summary.validation_loss = 0.25;
  summary.validation_accuracy = 0.91;
  summary.test_loss = 1.0 / 3.0;
  summary.test_accuracy = 0.9061;
  summary.best_step = 8442;
  summary.samples_per_second = 12345.678;
  summary.step_time_median_ms = 5.1;
  summary.step_time_p99_ms = 7.25;
  summary.time_to_first_step_s = 0.51;
  summary.data_wait_s = 0.002;
  summary.peak_rss_bytes = 201 << 20;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
    summary.memory_bytes[kind] = static_cast<int64_t>(1000 * kind + 1);
    summary.planned_memory_bytes[kind] = static_cast<int64_t>(900 * kind);
  }
  summary.seed = UINT64_MAX;
  summary.threads = 2;
  summary.processor = "a processor";
  summary.furrow_version = "0.1.0";
  summary.git_commit = "abc";
  summary.arithmetic = "bfloat16 on AVX-512 BF16";
  summary.instruction_set = "avx2";
  summary.library_build = "libtorch \"2.13\"";
  return summary;
}

TEST(Summary, ReadsBackWhatItWrote) {
  const std::string text = to_json(full());
  const Summary back = parse_summary(text);
  EXPECT_EQ(to_json(back), text);
  EXPECT_EQ(back.seed, UINT64_MAX);
  EXPECT_EQ(back.test_loss, 1.0 / 3.0);
  EXPECT_EQ(back.memory_bytes[2], 2001);
  EXPECT_EQ(back.best_step, 8442);
  EXPECT_EQ(back.library_build, "libtorch \"2.13\"");

  Summary other = full();
  other.test_loss = std::nextafter(*other.test_loss, 1.0);
  EXPECT_NE(to_json(other), text);  // one bit shows
}

TEST(Summary, HoldsTheKeysThatScriptsRelyOn) {
  const std::string text = to_json(full());
  for (const char* key : {"steps",
                          "samples",
                          "loss",
                          "validation_loss",
                          "validation_accuracy",
                          "test_loss",
                          "test_accuracy",
                          "samples_per_second",
                          "step_time_ms",
                          "median",
                          "p99",
                          "time_to_first_step_s",
                          "data_wait_s",
                          "peak_rss_bytes",
                          "memory_bytes",
                          "parameters",
                          "activations",
                          "seed",
                          "furrow_version",
                          "git_commit"}) {
    EXPECT_NE(text.find(fmt::format("\"{}\":", key)), std::string::npos) << key;
  }
}

TEST(Summary, PredictionStandsBesideWhatWasMeasured) {
  Summary summary = full();
  EXPECT_EQ(to_json(summary).find("predicted"), std::string::npos);
  Prediction prediction{"profiled", {10.5, {}, 4096, 0.25, 0.125}, {11.5, {}, 4352, 0.3, 0.15}};
  prediction.predicted.memory_by_kind[0] = 1024;
  prediction.predicted.memory_by_kind[3] = 2048;
  prediction.measured.memory_by_kind[3] = 3072;
  summary.prediction = prediction;
  const std::string text = to_json(summary);
  for (const char* key : {"step_time_ms", "memory_bytes", "wire_bytes", "bubble", "exposed_communication"})
    EXPECT_NE(text.find(fmt::format("\"{}\":", key), text.find("\"predicted\"")), std::string::npos) << key;
  EXPECT_NE(text.find("\"memory_bytes\": 3072"), std::string::npos) << text;
  const auto read = parse_summary(text).prediction;
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->source, "profiled");
  EXPECT_EQ(read->predicted.memory_bytes(), 3072);
  EXPECT_EQ(read->measured.wire_bytes, 4352);
  EXPECT_EQ(read->measured.bubble, 0.3);
  EXPECT_EQ(to_json(parse_summary(text)), text);
  const std::string table = to_table(summary);
  EXPECT_NE(table.find("a step                measured      predicted\n"), std::string::npos) << table;
  EXPECT_NE(table.find("  time                11.5 ms       10.5 ms (profiled)\n"), std::string::npos)
      << table;
}

TEST(Summary, AbsentValuesAreLeftOut) {
  const std::string text = to_json(Summary{});
  EXPECT_EQ(text.find("test_accuracy"), std::string::npos);
  EXPECT_FALSE(parse_summary(text).test_accuracy.has_value());
}

TEST(Summary, DamageIsNamed) {
  for (const char* text :
       {"", "[]", "{\"steps\": \"many\"}", "{\"steps\": 1.5}", "{\"name\": 3}", "{\"steps\": 1"}) {
    try {
      parse_summary(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss) << text;
    }
  }
}

TEST(Summary, WhatTheEndTookStandsApart) {
  Summary summary = full();
  EXPECT_EQ(to_table(summary).find("to test and export"), std::string::npos);
  summary.closing_memory_bytes[static_cast<size_t>(MemoryKind::kParameters)] = 8192;
  summary.closing_memory_bytes[static_cast<size_t>(MemoryKind::kOther)] = 1024;
  const std::string table = to_table(summary);
  EXPECT_NE(table.find("  to test and export  parameters 8.0 KiB, other 1.0 KiB\n"), std::string::npos)
      << table;
  EXPECT_EQ(parse_summary(to_json(summary)).closing_memory_bytes, summary.closing_memory_bytes);
}

TEST(Summary, ADevicesMemoryStandsBesideWhatWasPlannedThere) {
  Summary summary = full();
  EXPECT_EQ(to_json(summary).find("\"device\""), std::string::npos);
  summary.device = {"NVIDIA L4", int64_t{24} << 30, 3 << 20, 2 << 20, 4 << 20};
  const std::string text = to_json(summary);
  const Summary back = parse_summary(text);
  EXPECT_EQ(to_json(back), text);
  ASSERT_TRUE(back.device);
  EXPECT_EQ(back.device->name, "NVIDIA L4");
  EXPECT_EQ(back.device->planned_bytes, 3 << 20);
  EXPECT_EQ(back.device->reserved_bytes, 4 << 20);
  const std::string table = to_table(back);
  EXPECT_NE(table.find("NVIDIA L4, 4.0 MiB reserved of 24.0 GiB"), std::string::npos) << table;
}

TEST(Summary, TableShowsPlannedBesideMeasured) {
  const std::string table = to_table(full());
  EXPECT_NE(table.find("test accuracy         0.9061\n"), std::string::npos) << table;
  EXPECT_NE(table.find("memory by kind        measured      planned\n"), std::string::npos) << table;
  EXPECT_NE(table.find("  optimizer           2.0 KiB       1.8 KiB\n"), std::string::npos) << table;
}

}  // namespace
}  // namespace furrow::observe
