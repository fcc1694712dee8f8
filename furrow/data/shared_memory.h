// Memory that other processes of this host can map: without a name in any folder, gone with the last process
// that has it.  So data are read once for all ranks of a host, and lie there once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace furrow::data {

// Thread safe, as far as its users are that write into it.
class SharedMemory {
 public:
  using About = std::array<int64_t, 4>;  // says what lies there, in its maker's terms

  static std::shared_ptr<SharedMemory> make(const About& about, size_t bytes);  // Error{resource_exhausted}
  // What place() of another process says, to be read; null where it is not there: another host, or its maker
  // has ended.
  static std::shared_ptr<const SharedMemory> map(const std::string& place);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::string place() const;  // empty where it is mapped
  const About& about() const { return about_; }
  std::span<std::byte> bytes() const { return bytes_; }  // REQUIRES of one that is mapped: nothing is written

 private:
  class Mapping;
  struct Head;
  SharedMemory(std::unique_ptr<Mapping> mapping, const Head& head, bool made);

  std::unique_ptr<Mapping> mapping_;
  About about_;
  std::span<std::byte> bytes_;
  uint64_t token_ = 0;
  bool made_;
};

}  // namespace furrow::data
