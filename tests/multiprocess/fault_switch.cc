// A switch between network namespaces that misbehaves on demand: it delays, loses and partitions. It passes
// Ethernet frames from interface to interface over packet sockets, below TCP: what it loses, the kernels of
// the ranks send again, as on any bad link. Needs root; netem is not in every kernel, packet sockets are.
//
//   fault_switch [--seed N] INTERFACE ...
//
// Reads commands, one a line, and answers each with "passed P lost L parted C" (frames so far):
//   delay MS      every frame arrives so much later
//   loss PERCENT  each frame is lost with this probability, on its own
//   part I ...    interfaces of these numbers and all others hear nothing of each other; none: all do
//   count
// Ends with its input. A frame is what an interface hands over: as large as its gso_max_size allows.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/rng.h"

namespace furrow {
namespace {

constexpr size_t kPrefix = 10;  // struct virtio_net_hdr, whose header is no C++
constexpr size_t kLargestFrame = kPrefix + 72 * 1024;
constexpr size_t kMostHeldBytes =
    64 << 20;               // for one interface: beyond, frames are lost as in any full queue
constexpr int kBurst = 64;  // frames of one interface before the next has its turn

using Address = std::array<unsigned char, ETH_ALEN>;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(errno)));
}

// One interface: whole frames, each behind a virtio_net_hdr that says which checksum is still to be made and
// how the frame is to be cut, so that it goes on as it came.
class Port {
 public:
  explicit Port(const std::string& name) : socket_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(name.c_str()));
    packet_mreq all{};
    all.mr_ifindex = address.sll_ifindex;
    all.mr_type = PACKET_MR_PROMISC;
    const int on = 1, room = 16 << 20;
    if (socket_ < 0 || address.sll_ifindex == 0 || set(SOL_PACKET, PACKET_VNET_HDR, on) != 0 ||
        set(SOL_PACKET, PACKET_IGNORE_OUTGOING, on) != 0 ||
        set(SOL_PACKET, PACKET_ADD_MEMBERSHIP, all) != 0 || set(SOL_SOCKET, SO_RCVBUFFORCE, room) != 0 ||
        set(SOL_SOCKET, SO_SNDBUFFORCE, room) != 0 ||
        bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      fail(name);
    }
  }
  int descriptor() const { return socket_; }

  // Empty: none is there.
  std::vector<char> take() {
    static std::array<char, kLargestFrame> room;
    const ssize_t count = recv(socket_, room.data(), room.size(), MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN && errno != EINTR && errno != ENETDOWN) fail("recv");
    return {room.data(), room.data() + std::max<ssize_t>(count, 0)};
  }

  void hold(std::vector<char> frame, int64_t due_ns) {
    held_bytes_ += frame.size();
    held_.push_back({std::move(frame), due_ns});
  }
  bool is_full() const { return held_bytes_ > kMostHeldBytes; }
  bool holds() const { return !held_.empty(); }
  int64_t next_due_ns() const { return held_.front().due_ns; }

  void give(int64_t now_ns) {
    while (holds() && next_due_ns() <= now_ns) {
      const std::vector<char>& frame = held_.front().frame;
      if (send(socket_, frame.data(), frame.size(), MSG_DONTWAIT) < 0 &&
          (errno == EAGAIN || errno == ENOBUFS))
        return;  // later
      held_bytes_ -= frame.size();
      held_.pop_front();
    }
  }

 private:
  template <class T>
  int set(int level, int name, const T& value) {
    return setsockopt(socket_, level, name, &value, sizeof value);
  }
  struct Held {
    std::vector<char> frame;
    int64_t due_ns;
  };
  int socket_;
  std::deque<Held> held_;
  size_t held_bytes_ = 0;
};

class Switch {
 public:
  Switch(const std::vector<std::string>& interfaces, uint32_t seed) : seed_(seed) {
    for (const std::string& name : interfaces) ports_.emplace_back(name);
  }

  void run() {
    std::vector<pollfd> polls = {{STDIN_FILENO, POLLIN, 0}};
    for (const Port& port : ports_) polls.push_back({port.descriptor(), POLLIN, 0});
    while (true) {
      const timespec patience = time_to_next();
      if (ppoll(polls.data(), polls.size(), &patience, nullptr) < 0 && errno != EINTR) fail("poll");
      if (polls[0].revents != 0 && !read_commands()) return;
      for (size_t from = 0; from < ports_.size(); ++from) {
        for (int i = 0; i < kBurst; ++i) {
          std::vector<char> frame = ports_[from].take();
          if (frame.size() < kPrefix + sizeof(ether_header)) break;
          pass(from, std::move(frame));
        }
      }
      for (Port& port : ports_) port.give(system_clock().monotonic_ns());
    }
  }

 private:
  timespec time_to_next() const {
    int64_t wait_ns = 1'000'000'000;
    for (const Port& port : ports_) {
      if (!port.holds()) continue;
      // At least a little: what is overdue waits for room.
      wait_ns =
          std::min(wait_ns, std::max<int64_t>(port.next_due_ns() - system_clock().monotonic_ns(), 50'000));
    }
    return {wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
  }

  // To the interface behind which its receiver was seen, else to all others.
  void pass(size_t from, std::vector<char> frame) {
    ether_header header;
    std::memcpy(&header, frame.data() + kPrefix, sizeof header);
    Address to, source;
    std::memcpy(to.data(), header.ether_dhost, ETH_ALEN);
    std::memcpy(source.data(), header.ether_shost, ETH_ALEN);
    seen_[source] = from;
    const auto known = seen_.find(to);
    for (size_t port = 0; port < ports_.size(); ++port) {
      if (port != from && (known == seen_.end() || known->second == port)) post(from, port, frame);
    }
  }

  void post(size_t from, size_t to, const std::vector<char>& frame) {
    if (apart_.contains(from) != apart_.contains(to)) {
      ++parted_;
    } else if (draw() < loss_ || ports_[to].is_full()) {
      ++lost_;
    } else {
      ++passed_;
      ports_[to].hold(frame, system_clock().monotonic_ns() + delay_ns_);
    }
  }

  // A number of its own for each frame, in [0, 1).
  float draw() const {
    return uniform01(
        philox4x32({static_cast<uint32_t>(passed_), static_cast<uint32_t>(lost_), 0, 0}, {seed_, 0})[0]);
  }

  // False at the end.
  bool read_commands() {
    std::array<char, 4096> room;
    const ssize_t count = read(STDIN_FILENO, room.data(), room.size());
    if (count <= 0) return false;
    input_.append(room.data(), static_cast<size_t>(count));
    for (size_t end = input_.find('\n'); end != std::string::npos; end = input_.find('\n')) {
      obey(input_.substr(0, end));
      input_.erase(0, end + 1);
      fmt::print("passed {} lost {} parted {}\n", passed_, lost_, parted_);
      std::fflush(stdout);
    }
    return true;
  }

  void obey(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    double number = 0;
    words >> command;
    if (command == "delay" && words >> number) {
      delay_ns_ = static_cast<int64_t>(number * 1e6);
    } else if (command == "loss" && words >> number) {
      loss_ = number / 100;
    } else if (command == "part") {
      apart_.clear();
      for (size_t port = 0; words >> port;) apart_.insert(port);
    } else if (command != "count") {
      throw std::runtime_error("no command: " + line);
    }
  }

  uint32_t seed_;
  std::vector<Port> ports_;
  std::map<Address, size_t> seen_;
  std::set<size_t> apart_;
  int64_t delay_ns_ = 0, passed_ = 0, lost_ = 0, parted_ = 0;
  double loss_ = 0;
  std::string input_;
};

int run(int count, char** words) {
  try {
    std::vector<std::string> interfaces(words + 1, words + count);
    uint32_t seed = 1;
    if (interfaces.size() > 2 && interfaces[0] == "--seed") {
      seed = static_cast<uint32_t>(std::stoul(interfaces[1]));
      interfaces.erase(interfaces.begin(), interfaces.begin() + 2);
    }
    Switch(interfaces, seed).run();
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace furrow

int main(int count, char** words) { return furrow::run(count, words); }
