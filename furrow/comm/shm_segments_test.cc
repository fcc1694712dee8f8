#include "furrow/comm/shm_segments.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "furrow/comm/communicator.h"
#include "tests/testing/run_ranks.h"

namespace furrow::comm {
namespace {

constexpr size_t kMiB = 1 << 20;

// Bytes that large pages map, of the mapping that `address` lies in; from /proc/self/smaps.
size_t large_mapped(const std::byte* address) {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0, kilobytes = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) inside = begin <= wanted && wanted < end;
    if (inside && std::sscanf(line.c_str(), "ShmemPmdMapped: %lu kB", &kilobytes) == 1)
      return kilobytes << 10;
  }
  return 0;
}

// Whether this system gives shared memory a large page to who asks for one.
bool system_has_large_pages() {
  const int descriptor = memfd_create("probe", MFD_CLOEXEC);
  if (ftruncate(descriptor, 4 * kMiB) != 0) return false;
  void* reserved = mmap(nullptr, 6 * kMiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const uintptr_t aligned = (reinterpret_cast<uintptr_t>(reserved) + 2 * kMiB - 1) & ~uintptr_t{2 * kMiB - 1};
  auto* data = static_cast<char*>(mmap(reinterpret_cast<void*>(aligned), 4 * kMiB, PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_FIXED, descriptor, 0));
  data[0] = data[2 * kMiB] = 1;
  const bool collapsed = madvise(data, 4 * kMiB, 25) == 0;
  munmap(reserved, 6 * kMiB);
  ::close(descriptor);
  return collapsed;
}

#define NEEDS_LARGE_PAGES() \
  if (!system_has_large_pages()) GTEST_SKIP() << "this system gives shared memory no large pages on request"

TEST(SharedFile, LargePagesLieInsideWhatWasAskedFor) {
  NEEDS_LARGE_PAGES();
  SharedFile file("test", 8 * kMiB);
  file.data()[0] = std::byte{7};
  file.use_large_pages(1 * kMiB, 7 * kMiB);
  EXPECT_EQ(large_mapped(file.data()), 4 * kMiB);
  EXPECT_EQ(file.data()[0], std::byte{7});
  EXPECT_EQ(file.data()[3 * kMiB + 5], std::byte{0});
}

TEST(SharedFile, AnotherMappingHasTheLargePagesToo) {
  NEEDS_LARGE_PAGES();
  SharedFile file("test", 8 * kMiB);
  file.use_large_pages(0, 8 * kMiB);
  SharedFile peer(getpid(), file.descriptor(), 8 * kMiB);
  for (size_t at = 0; at < 8 * kMiB; at += 4096) peer.data()[at] = std::byte{3};
  EXPECT_EQ(large_mapped(peer.data()), 8 * kMiB);
  EXPECT_EQ(file.data()[5 * kMiB], std::byte{3});
}

TEST(SharedFile, ReleasedLargePagesReadAsZero) {
  SharedFile file("test", 8 * kMiB);
  file.use_large_pages(0, 8 * kMiB);
  std::fill_n(file.data(), 8 * kMiB, std::byte{9});
  file.release_pages(1 * kMiB + 5, 7 * kMiB + 5);
  EXPECT_EQ(file.data()[1 * kMiB + 5], std::byte{9});  // the rest of its page
  EXPECT_EQ(std::count(file.data() + 1 * kMiB + 4096, file.data() + 7 * kMiB, std::byte{0}),
            static_cast<ptrdiff_t>(6 * kMiB - 4096));
  EXPECT_EQ(file.data()[7 * kMiB], std::byte{9});
}

TEST(SharedFile, OddSizesAreMappedWholeAndAlone) {
  for (const size_t bytes : {size_t{1}, size_t{4097}, 2 * kMiB - 1, 2 * kMiB + 1, 5 * kMiB + 12345}) {
    SharedFile file("test", bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.data()) % 4096, 0u) << bytes;
    std::fill_n(file.data(), bytes, std::byte{1});
  }
}

// Blocks are placed so that large ones have large pages, whatever was cut before them.
TEST(SegmentPool, LargeBlocksOfARankHaveLargePages) {
  NEEDS_LARGE_PAGES();
  testing::run_ranks_with(2, {.transport = "shm"}, [](Communicator& communicator) {
    std::vector<Memory> blocks;
    blocks.push_back(communicator.allocate(1000));
    const size_t before = large_mapped(blocks.back().data());
    blocks.push_back(communicator.allocate(6 * kMiB));
    EXPECT_EQ(large_mapped(blocks.back().data()), before + 6 * kMiB);
    EXPECT_EQ(std::count(blocks.back().data(), blocks.back().data() + 6 * kMiB, std::byte{0}),
              static_cast<ptrdiff_t>(6 * kMiB));
  });
}

}  // namespace
}  // namespace furrow::comm
