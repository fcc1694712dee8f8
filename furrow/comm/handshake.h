// How a connection begins, on the store's port and on the transport's: both sides prove that they hold the
// job's token before anything else is read.  The server speaks first, so that a caller at a stranger's port
// says nothing.
//
//   server -> client   "furrow1\n", purpose (8 bytes), challenge (16)
//   client -> server   challenge (16), proof (32)
//   server -> client   proof (32); instead of it the connection ends when the client's proof is wrong
//
// What a stranger can cost: 48 bytes read, one socket among kMostGuests, for kPatienceMs.
//
// On a data connection the caller then says which one it is (Introduction).
#pragma once

#include <poll.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/comm/secret.h"
#include "furrow/comm/socket.h"

namespace furrow::comm {

inline constexpr std::string_view kStorePurpose = "store   ";
inline constexpr std::string_view kDataPurpose = "data    ";

enum class Greeting {
  kFriend,    // both sides hold the token
  kStranger,  // no furrow of this purpose, or none that greets in time
  kRefused,   // a furrow with another token
};

// The caller's part.
Greeting greet(const Socket& socket, std::string_view purpose, const Secret& secret,
               const Patience& patience);

// The server's part of one handshake, without its socket.  A value.
class Reception {
 public:
  static constexpr size_t kOpeningBytes = 32, kAnswerBytes = 48;
  enum class Verdict { kWaiting, kFriend, kStranger };

  // REQUIRES: a purpose of 8 bytes; a challenge that nobody was asked before.
  explicit Reception(std::string_view purpose, const Challenge& challenge = random_challenge())
      : purpose_(purpose), challenge_(challenge) {}

  std::array<std::byte, kOpeningBytes> opening() const;  // what it says first
  // Where the next bytes of the answer go, at most those that are missing.
  std::span<std::byte> room() { return std::span(answer_).subspan(received_); }
  // After `count` bytes have come into room(): what is known of the caller.
  Verdict take(size_t count, const Secret& secret);
  Proof proof(const Secret& secret) const;  // what a friend is told.  REQUIRES: it is one
  bool silent() const { return received_ == 0; }

 private:
  std::string_view purpose_;
  Challenge challenge_;
  std::array<std::byte, kAnswerBytes> answer_{};
  size_t received_ = 0;
};

// What the caller of a data connection says after the handshake.
struct Introduction {
  int rank = -1;        // of the world
  int connection = -1;  // of that pair of ranks; 0: control
  friend bool operator==(const Introduction&, const Introduction&) = default;
};
using IntroductionBytes = std::array<std::byte, 8>;
IntroductionBytes to_bytes(const Introduction& introduction);
Introduction parse_introduction(const IntroductionBytes& bytes);  // any bytes are one

// The server's part: guests at the door, none of whom can block it.  One that says something else than a rank
// of this job leaves a warning in the log, at most one a kWarningMs however many come.  Belongs to one
// thread.
class Door {
 public:
  static constexpr int64_t kWarningMs = 60'000;
  static constexpr size_t kMostGuests = 256;  // the oldest goes when one more comes
  static constexpr int64_t kPatienceMs = 5'000;
  static constexpr int64_t kRestMs = 20;  // without a descriptor, until the next try

  Door(Socket listener, std::string_view purpose, const Secret& secret);

  const Socket& listener() const { return listener_; }
  void add_polls(std::vector<pollfd>& polls) const;  // what to poll for, together with the caller's own
  int64_t next_deadline_ns() const;  // of the oldest guest, or of a rest; INT64_MAX without any

  // Takes whoever knocks, moves every guest on without waiting; the sockets of those that proved themselves.
  // Error{resource_exhausted}, where there are none: no descriptor is left for one more, who goes on
  // knocking.
  std::vector<Socket> admit();
  size_t guests() const { return guests_.size(); }
  void close() { listener_.close(), guests_.clear(); }

 private:
  struct Guest {
    Socket socket;
    Endpoint from;
    Reception reception;
    int64_t deadline_ns = 0;
  };
  bool resting() const;
  void welcome(Socket socket);
  std::optional<Error> take_knocks();  // why it could not take them all
  Reception::Verdict advance(Guest& guest) const;
  void note_stranger(const Guest& guest, int64_t now_ns);

  Socket listener_;
  std::string_view purpose_;
  Secret secret_;
  std::vector<Guest> guests_;  // oldest first
  int64_t strangers_ = 0;      // since the last warning
  int64_t next_warning_ns_ = INT64_MIN;
  int64_t rest_until_ns_ = INT64_MIN;
};

}  // namespace furrow::comm
