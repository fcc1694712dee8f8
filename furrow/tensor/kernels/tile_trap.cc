#include "furrow/tensor/kernels/tile_trap.h"

#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

namespace furrow::tensor::kernels::testing {
namespace {

float flushed(float x) {
  return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0F, x) : x;
}

}  // namespace

float tile_products(float c, const float* a, const float* b, size_t count) {
  float sums[2] = {};
  for (size_t k = 0; k < count; ++k)
    sums[k % 2] = flushed(std::fma(flushed(a[k]), flushed(b[k]), sums[k % 2]));
  return flushed(flushed(c) + flushed(sums[0] + sums[1]));
}

#if defined(__x86_64__) && defined(__linux__)
namespace {

struct Registers {
  bool configured = false;
  uint8_t lane[8][16][64];  // [register][row][byte]
};
thread_local Registers registers;
std::atomic<int64_t> done{0};
struct sigaction before;

// A VEX instruction of three bytes of prefix, opcode map 0F38 (Intel manual, volume 2, "VEX prefix").
struct Instruction {
  const uint8_t* at;
  int prefix() const { return at[2] & 3; }        // 0 none, 1 66, 2 F3, 3 F2
  int third() const { return ~at[2] >> 3 & 15; }  // vvvv
  uint8_t opcode() const { return at[3]; }
  int mode() const { return at[4] >> 6; }
  int reg() const { return at[4] >> 3 & 7; }
  int rm() const { return at[4] & 7; }
  bool known() const { return at[0] == 0xc4 && (at[1] & 0x1f) == 2 && (at[2] & 0x84) == 0; }
};

struct Operand {
  uint8_t* address;
  int64_t stride;  // of a row, in bytes
  int64_t bytes;   // of ModRM and what follows
};

int64_t value_of(const ucontext_t& context, int number) {
  constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kOrder[number]];
}

// ModRM and SIB (volume 2, "ModR/M and SIB bytes"); an index is the stride of a tile in memory.
Operand operand_of(const Instruction& in, const ucontext_t& context) {
  const int more_index = (in.at[1] & 0x40) == 0 ? 8 : 0, more_base = (in.at[1] & 0x20) == 0 ? 8 : 0;
  const bool sib = in.rm() == 4;
  const uint8_t byte = sib ? in.at[5] : 0;
  int64_t bytes = sib ? 2 : 1, address = 0, stride = 0, displacement = 0;
  const int base = sib ? byte & 7 : in.rm(), index = (byte >> 3 & 7) + more_index;
  const bool far = in.mode() == 2 || (in.mode() == 0 && base == 5);
  if (in.mode() == 1) displacement = static_cast<int8_t>(in.at[4 + bytes]);
  if (far) {
    int32_t wide;
    std::memcpy(&wide, in.at + 4 + bytes, sizeof(wide));
    displacement = wide;
  }
  bytes += in.mode() == 1 ? 1 : far ? 4 : 0;
  if (in.mode() == 0 && base == 5) {
    if (!sib) address = reinterpret_cast<int64_t>(in.at) + 4 + bytes;  // relative to the next instruction
  } else {
    address = value_of(context, base + more_base);
  }
  if (sib && index != 4) stride = value_of(context, index) << (byte >> 6);
  return {reinterpret_cast<uint8_t*>(address + displacement), stride, bytes};
}

// LDTILECFG: palette 1 and eight registers of 16 rows of 64 bytes, which is all that furrow sets.
bool configure(const uint8_t* memory) {
  uint8_t want[64] = {1};
  for (int t = 0; t < 8; ++t) {
    want[16 + 2 * t] = 64;
    want[48 + t] = 16;
  }
  registers = {};
  registers.configured = std::memcmp(memory, want, sizeof(want)) == 0;
  return registers.configured;
}

float number_at(int t, int64_t row, size_t half) {
  const uint32_t bits = static_cast<uint32_t>(registers.lane[t][row][2 * half]) << 16 |
                        static_cast<uint32_t>(registers.lane[t][row][2 * half + 1]) << 24;
  float number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}

void add_products(int c, int a, int b) {
  for (int64_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 16; ++j) {
      float x[32], y[32], sum;
      for (size_t k = 0; k < 32; ++k) {
        x[k] = number_at(a, i, k);
        y[k] = number_at(b, static_cast<int64_t>(k / 2), 2 * j + k % 2);
      }
      std::memcpy(&sum, &registers.lane[c][i][4 * j], sizeof(sum));
      sum = tile_products(sum, x, y, 32);
      std::memcpy(&registers.lane[c][i][4 * j], &sum, sizeof(sum));
    }
  }
}

void move(int t, const Operand& memory, bool to_memory) {
  for (int64_t i = 0; i < 16; ++i) {
    uint8_t* row = memory.address + i * memory.stride;
    to_memory ? std::memcpy(row, registers.lane[t][i], 64) : std::memcpy(registers.lane[t][i], row, 64);
  }
}

// The bytes of the instruction, 0 where it is none of these or not allowed here.
int64_t carry_out(const Instruction& in, const ucontext_t& context) {
  if (!in.known()) return 0;
  const bool memory = in.mode() != 3;
  if (in.opcode() == 0x49 && memory && in.prefix() == 0 && in.reg() == 0) {
    const Operand from = operand_of(in, context);
    return configure(from.address) ? 4 + from.bytes : 0;
  }
  if (!registers.configured) return 0;
  if (in.opcode() == 0x49 && !memory && in.prefix() == 0) {  // TILERELEASE
    registers.configured = false;
    return 5;
  }
  if (in.opcode() == 0x49 && !memory && in.prefix() == 3) {  // TILEZERO
    std::memset(registers.lane[in.reg()], 0, sizeof(registers.lane[0]));
    return 5;
  }
  if (in.opcode() == 0x4b && memory && in.rm() == 4 && in.prefix() >= 2) {  // TILELOADD, TILESTORED
    const Operand at = operand_of(in, context);
    move(in.reg(), at, in.prefix() == 2);
    return 4 + at.bytes;
  }
  if (in.opcode() != 0x5c || memory || in.prefix() != 2) return 0;
  add_products(in.reg(), in.rm(), in.third());  // TDPBF16PS
  return 5;
}

void handle(int signal, siginfo_t*, void* context_of_thread) {
  auto* context = static_cast<ucontext_t*>(context_of_thread);
  auto& next = context->uc_mcontext.gregs[REG_RIP];
  const int64_t bytes = carry_out({reinterpret_cast<const uint8_t*>(next)}, *context);
  if (bytes == 0) {
    ::sigaction(signal, &before, nullptr);  // it is raised again
    return;
  }
  next += bytes;
  ++done;
}

}  // namespace

TileTrap::TileTrap() {
  done = 0;
  struct sigaction action = {};
  action.sa_sigaction = &handle;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGILL, &action, &before);
}
TileTrap::~TileTrap() { ::sigaction(SIGILL, &before, nullptr); }
int64_t TileTrap::carried_out() { return done; }
#else
TileTrap::TileTrap() = default;
TileTrap::~TileTrap() = default;
int64_t TileTrap::carried_out() { return 0; }
#endif

}  // namespace furrow::tensor::kernels::testing
