#include "furrow/base/cpu_quota.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "furrow/base/file.h"

namespace furrow {
namespace {

// A machine as far as its control groups go.
class CpuQuota : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(root_.data()), nullptr); }
  void TearDown() override { remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    make_directories(parent_directory(root_ + path));
    write_file_atomic(root_ + path, text);
  }
  double quota() const { return cpu_quota(root_); }

  std::string root_ = "/tmp/furrow-quota-XXXXXX";
};

TEST_F(CpuQuota, OfVersion2IsTheLeastOnTheWayUp) {
  EXPECT_EQ(quota(), 0) << "no control groups";
  write("/proc/self/cgroup", "0::/pods/a\n");
  EXPECT_EQ(quota(), 0);
  write("/sys/fs/cgroup/pods/a/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), 0);
  write("/sys/fs/cgroup/pods/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota(), 4);
  write("/sys/fs/cgroup/pods/a/cpu.max", "125000 50000\n");
  EXPECT_EQ(quota(), 2.5);
  write("/sys/fs/cgroup/pods/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota(), 1);
}

// Inside a container its group is the root of what is mounted.
TEST_F(CpuQuota, OfAContainerIsAtTheRootOfTheMount) {
  write("/proc/self/cgroup", "0::/\n");
  write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, OfVersion1) {
  write("/proc/self/cgroup", "12:cpuset:/x\n4:cpu,cpuacct:/docker/4f\n0::/\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(quota(), 0);
  write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(quota(), 1.5);
}

TEST_F(CpuQuota, ThatIsNoNumberIsNone) {
  write("/proc/self/cgroup", "0::/\nnonsense\n:\n");
  for (const char* text : {"", "much", "100000", "100000 0", "-5 10"}) {
    write("/sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(quota(), 0) << text;
  }
}

}  // namespace
}  // namespace furrow
