#include "furrow/config/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "furrow/base/error.h"
#include "furrow/base/file.h"

namespace furrow::config {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kSmall = "[device]\nname = \"l4\"\n";

std::string refusal(std::string_view text) {
  try {
    parse_cluster(text, "c.toml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_EQ(error.message().find('\n'), std::string::npos) << "one line";
    return error.message();
  }
  return "accepted";
}

TEST(ClusterFile, ReadsKeysAndRemembersLines) {
  const ClusterFile file = parse_cluster(
      "[hosts]\ncount = 3\ndevices = 2\n[device]\nname = \"l4\"\nefficiency = 0.25\n[links]\nname = "
      "\"pcie4\"\n[network]\nname = \"ethernet-10\"\nlatency_us = 12\n",
      "c.toml");
  EXPECT_EQ(file.hosts.count, 3);
  EXPECT_EQ(file.device.efficiency, 0.25);
  EXPECT_EQ(file.network.latency_us, 12.0);
  EXPECT_EQ(file.links.topology, "preset");
  EXPECT_EQ(where(file, "hosts.count"), "c.toml:2: ");
  EXPECT_EQ(where(file, "price.currency"), "c.toml: ");
}

TEST(ClusterFile, SurvivesItsTextForm) {
  for (const auto& entry : std::filesystem::directory_iterator(
           std::filesystem::path(std::getenv("FURROW_SOURCE_DIR")) / "examples/clusters")) {
    const ClusterFile file = load_cluster(entry.path().string());
    EXPECT_EQ(parse_cluster(to_toml(file), "again.toml"), file) << entry.path();
    EXPECT_FALSE(file.cluster.name.empty()) << entry.path();
  }
}

TEST(ClusterFile, RefusesInOneLine) {
  const std::string small(kSmall);
  EXPECT_EQ(refusal(small), "accepted");
  EXPECT_THAT(refusal(small + "[hosts]\ncuont = 2\n"),
              HasSubstr("c.toml:4: unknown key in [hosts] 'cuont': did you mean 'count'?"));
  EXPECT_THAT(refusal(small + "[host]\ncount = 2\n"), HasSubstr("did you mean 'hosts'?"));
  EXPECT_THAT(refusal(small + "[price]\nports = 2\n"), HasSubstr("(links.ports is a key)"));
  EXPECT_THAT(refusal(small + "[hosts]\ncount = \"two\"\n"), HasSubstr("hosts.count must be an integer"));
  EXPECT_THAT(refusal(small + "[hosts]\ncount = 0\n"), HasSubstr("out of range: it must be at least 1"));
  EXPECT_THAT(refusal(small + "[links]\ntopology = \"rng\"\n"), HasSubstr("did you mean 'ring'?"));
  EXPECT_THAT(refusal("[hosts]\ncount = 1\n"), HasSubstr("device.name is missing"));
  EXPECT_THAT(refusal(small + "[hosts]\ncount = 2\n"), HasSubstr("network.name is missing: 2 hosts"));
  EXPECT_THAT(refusal(small + "[hosts]\ndevices = 4\n"), HasSubstr("links.name is missing: 4 devices"));
  EXPECT_THAT(refusal(small + "[network]\noversubscription = 2.0\n"), HasSubstr("has no effect without"));
  EXPECT_THAT(refusal(small + "[network]\ntopology = \"tree\"\n"), HasSubstr("ports_per_leaf is missing"));
}

// FURROW_UPDATE_DOCS=1 writes the table instead of comparing.
TEST(ClusterFile, DocumentationListsEveryKey) {
  const std::string path = std::string(std::getenv("FURROW_SOURCE_DIR")) + "/docs/formats/cluster.md";
  const std::string text = read_file(path), reference = cluster_reference();
  if (std::getenv("FURROW_UPDATE_DOCS") != nullptr) {
    const size_t begin = text.find("| key |"), end = text.find("\n\n", begin);
    write_file_atomic(path, text.substr(0, begin) + reference + text.substr(end + 1));
    return;
  }
  EXPECT_THAT(text, HasSubstr(reference)) << "FURROW_UPDATE_DOCS=1 config_test writes it";
}

}  // namespace
}  // namespace furrow::config
