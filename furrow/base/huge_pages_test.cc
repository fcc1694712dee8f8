#include "furrow/base/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "furrow/base/file.h"

namespace furrow {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Memory that is full of a number of its own.
struct Held {
  uint8_t* bytes;
  size_t size;
  uint8_t number;

  Held(size_t size, uint8_t number)
      : bytes(static_cast<uint8_t*>(allocate_memory(size))), size(size), number(number) {
    std::memset(bytes, number, size);
  }
  bool whole() const {
    for (size_t i = 0; i < size; ++i) {
      if (bytes[i] != number) return false;
    }
    return true;
  }
  void free() const { free_memory(bytes, size); }
};

// Whoever overlaps another breaks one of the two.
void take_and_give(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Held> held;
  for (int i = 0; i < 100; ++i) {
    const size_t size = (size_t{1} << random() % 22) + random() % 5000;
    held.emplace_back(size, static_cast<uint8_t>(random()));
    ASSERT_EQ(reinterpret_cast<uintptr_t>(held.back().bytes) % 64, 0u);
    while (held.size() > 20 || (!held.empty() && random() % 2 == 0)) {
      std::swap(held[random() % held.size()], held.back());
      ASSERT_TRUE(held.back().whole()) << "seed " << seed << " step " << i;
      held.back().free();
      held.pop_back();
    }
  }
  for (const Held& each : held) {
    ASSERT_TRUE(each.whole());
    each.free();
  }
}

TEST(HugePages, PiecesDoNotOverlap) {
  for (unsigned seed = 0; seed < 3; ++seed) take_and_give(seed);
  std::thread other([] { take_and_give(3); });
  take_and_give(4);
  other.join();
}

TEST(HugePages, SmallOnesAreMallocs) {
  void* const memory = allocate_memory(kLeastInHugePages - 1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 64, 0u);
  free_memory(memory, kLeastInHugePages - 1);
}

// With address sanitizer nothing is mapped, and a process whose memory is short ends.
#if !defined(__SANITIZE_ADDRESS__)
TEST(HugePages, RefusesWhatNoMachineHas) { EXPECT_EQ(allocate_memory(size_t{1} << 60), nullptr); }

bool is_mapped(const uint8_t* page) {
  unsigned char resident = 0;
  return ::mincore(const_cast<uint8_t*>(page), 4096, &resident) == 0;
}

TEST(HugePages, LieSideBySide) {
  const Held one(size_t{1} << 20, 1), two(size_t{1} << 20, 2);
  EXPECT_LE(std::abs(one.bytes - two.bytes), std::ptrdiff_t{32} << 20);
  one.free();
  const Held again(size_t{1} << 20, 3);
  EXPECT_EQ(again.bytes, one.bytes) << "the place is given once more";
  again.free();
  two.free();
}

TEST(HugePages, GoBackToTheSystem) {
  constexpr size_t kMuch = size_t{256} << 20;
  auto* const memory = static_cast<uint8_t*>(allocate_memory(kMuch));
  ASSERT_NE(memory, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % kHugePage, 0u);
  memory[kMuch - 1] = 1;
  EXPECT_TRUE(is_mapped(memory + kMuch / 2));
  free_memory(memory, kMuch);
  EXPECT_FALSE(is_mapped(memory + kMuch / 2));
}

// That of a system which gives huge pages to who asks for them.
TEST(HugePages, AreHuge) {
  if (read_file("/sys/kernel/mm/transparent_hugepage/enabled").find("[never]") != std::string::npos)
    GTEST_SKIP() << "this system gives no huge pages";
  const Held held(size_t{64} << 20, 1);
  const std::string all = read_file("/proc/self/smaps");
  size_t kib = 0;
  for (size_t at = all.find("AnonHugePages:"); at != std::string::npos;
       at = all.find("AnonHugePages:", at + 1))
    kib += std::strtoull(all.c_str() + at + std::strlen("AnonHugePages:"), nullptr, 10);
  EXPECT_GE(kib, 2U << 10);
  held.free();
}
#endif

}  // namespace
}  // namespace furrow
