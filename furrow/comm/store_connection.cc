#include "furrow/comm/store_connection.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <string_view>

namespace furrow::comm {

// A rank that fails says why, then hangs up: between a receive() and a flush() both may have happened, and
// the reset is told of before the words.
bool StoreConnection::flush() {
  if (push()) return true;
  receive();
  return false;
}

bool StoreConnection::push() {
  failed_ = failed_ || (has_output() && has_error());  // sending would take it away
  while (sent_ < outbox_.size()) {
    const ssize_t count =
        ::send(socket_.descriptor(), outbox_.data() + sent_, outbox_.size() - sent_, MSG_NOSIGNAL);
    if (count < 0) return may_go_on();
    sent_ += static_cast<size_t>(count);
  }
  outbox_.clear();
  sent_ = 0;
  return true;
}

bool StoreConnection::receive() {
  char buffer[64 * 1024];
  while (true) {
    const ssize_t count = recv(socket_.descriptor(), buffer, sizeof buffer, 0);
    if (count == 0) return false;
    if (count < 0) return may_go_on();
    inbox_.append(std::string_view(buffer, static_cast<size_t>(count)));
    if (static_cast<size_t>(count) < sizeof buffer) return true;
  }
}

bool StoreConnection::undelivered() const {
  int bytes = 0;
  return has_output() || (open() && ioctl(socket_.descriptor(), SIOCOUTQ, &bytes) == 0 && bytes > 0);
}

bool StoreConnection::has_error() const {
  pollfd one{socket_.descriptor(), 0, 0};
  return poll(&one, 1, 0) > 0 && (one.revents & POLLERR) != 0;
}

// That nothing more can be sent (EPIPE) says no more than that one of both ends has been shut down.
bool StoreConnection::may_go_on() {
  if (errno == EAGAIN || errno == EINTR) return true;
  failed_ = failed_ || errno != EPIPE;
  return false;
}

// The end of the other side is no hang-up to the system as long as this side could still send; a reset is an
// error.
bool StoreConnection::ended_here() const {
  pollfd one{socket_.descriptor(), 0, 0};
  return !failed_ && poll(&one, 1, 0) > 0 && (one.revents & POLLHUP) != 0 && (one.revents & POLLERR) == 0;
}

int16_t StoreConnection::poll_events() const {
  return static_cast<int16_t>(POLLIN | (has_output() ? POLLOUT : 0));
}

}  // namespace furrow::comm
