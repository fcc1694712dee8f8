// One end of a connection between a rank and the store: messages in and out, never waiting.
#pragma once

#include <string>
#include <string_view>

#include "furrow/comm/socket.h"
#include "furrow/comm/store_messages.h"

namespace furrow::comm {

// What a rank whose connection ended_here() did.
inline constexpr std::string_view kShutItself =
    "ended its connections itself: something in its process shut them down";

// Belongs to one thread.
class StoreConnection {
 public:
  explicit StoreConnection(Socket socket, size_t longest = kLargestStoreMessage)
      : socket_(std::move(socket)), inbox_(longest) {}

  const Socket& socket() const { return socket_; }
  bool open() const { return socket_.open(); }
  void close() { socket_.close(); }

  void send(const StoreMessage& message) { outbox_ += to_bytes(message); }
  bool has_output() const { return !outbox_.empty(); }
  // What the socket takes; false when the connection is broken, with all that had come before in the inbox.
  bool flush();
  bool receive();  // what is there; false at the end of the connection
  // Output that the other side's system does not have yet: closing now could lose it.
  bool undelivered() const;
  // After receive() has said so: was it this process that shut the connection down, not the other end?
  bool ended_here() const;
  StoreInbox& inbox() { return inbox_; }
  int16_t poll_events() const;

 private:
  bool push();             // flush(), without what had come
  bool has_error() const;  // that the system has yet to report
  bool may_go_on();        // after the error that errno says

  Socket socket_;
  StoreInbox inbox_;
  std::string outbox_;
  size_t sent_ = 0;      // of it
  bool failed_ = false;  // the system has reported an error, which it does once
};

}  // namespace furrow::comm
