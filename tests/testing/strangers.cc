#include "tests/testing/strangers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace furrow::testing {
namespace {

constexpr size_t kMostCallers = 400;  // more than a door has places
constexpr auto kBetweenRounds = std::chrono::milliseconds(5);
constexpr int64_t kRoundsOfPorts = 20;  // until somebody looks where they listen: that is slow

enum Kind : size_t { kGarbage, kHalf, kWrong, kSlow, kSilent, kHangsUp, kResets };

// Inodes of the sockets that a process has open.
std::set<std::string> sockets_of(pid_t pid) {
  std::set<std::string> inodes;
  std::error_code gone;  // between listing and looking
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone)) {
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  return inodes;
}

// A connection to 127.0.0.1, or -1.
int connect_to(int port) {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    ::close(descriptor);
    return -1;
  }
  return descriptor;
}

void say(int descriptor, size_t bytes, char with) {
  const std::string text(bytes, with);
  (void)::send(descriptor, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

// "sl local_address rem_address st ...": the columns of proc_net_tcp(5).
std::set<int> listening_ports(pid_t pid) {
  constexpr const char* kListen = "0A";
  const std::set<std::string> own = sockets_of(pid);
  std::set<int> ports;
  for (const char* table : {"net/tcp", "net/tcp6"}) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/" + table);
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string number, local, remote, state, queues, timer, retries, user, timeout, inode;
      words >> number >> local >> remote >> state >> queues >> timer >> retries >> user >> timeout >> inode;
      if (state != kListen || !own.contains(inode)) continue;
      ports.insert(std::stoi(local.substr(local.rfind(':') + 1), nullptr, 16));
    }
  }
  return ports;
}

Strangers::Strangers(std::vector<pid_t> processes) : processes_(std::move(processes)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Strangers::~Strangers() {
  thread_.request_stop();
  thread_.join();
  for (const Caller& caller : callers_) ::close(caller.descriptor);
}

std::map<pid_t, std::set<int>> Strangers::called() const {
  const std::lock_guard lock(mutex_);
  std::map<pid_t, std::set<int>> all;
  for (const auto& [process, ports] : kinds_) {
    for (const auto& [port, count] : ports) {
      if (count >= kKinds) all[process].insert(port);
    }
  }
  return all;
}

void Strangers::run(const std::stop_token& stop) {
  std::vector<std::pair<pid_t, int>> ports;
  for (int64_t round = 0; !stop.stop_requested(); ++round) {
    if (round % kRoundsOfPorts == 0) {
      ports.clear();
      for (const pid_t process : processes_) {
        for (const int port : listening_ports(process)) ports.emplace_back(process, port);
      }
    }
    for (const auto& [process, port] : ports) call(process, port);
    for (Caller& caller : callers_) go_on(caller);
    std::this_thread::sleep_for(kBetweenRounds);
  }
}

void Strangers::call(pid_t process, int port) {
  const int descriptor = connect_to(port);
  if (descriptor < 0) return;
  ++calls_;
  size_t kind = 0;
  {
    const std::lock_guard lock(mutex_);
    kind = kinds_[process][port]++ % kKinds;
  }
  if (kind == kGarbage) say(descriptor, 1'000, 'x');
  if (kind == kHalf) say(descriptor, 20, '\0');
  if (kind == kWrong) say(descriptor, 48, '\0');
  const linger at_once{1, 0};
  if (kind == kResets) ::setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  if (kind == kHangsUp || kind == kResets) {
    ::close(descriptor);
    return;
  }
  callers_.push_back({descriptor, kind});
  if (callers_.size() <= kMostCallers) return;
  ::close(callers_.front().descriptor);
  callers_.erase(callers_.begin());
}

void Strangers::go_on(Caller& caller) {
  if (caller.kind == kSlow) say(caller.descriptor, 1, 'y');
}

}  // namespace furrow::testing
