// What ranks and the store say to each other, after the handshake: a length (4 bytes), a kind (1 byte),
// fields (comm/wire.h).  docs/formats/comm-wire.md describes it.  Values; parsing is pure and thread safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::comm {

inline constexpr size_t kLargestStoreMessage = size_t{256} << 20;
inline constexpr size_t kLongestConfig = size_t{256} << 10;

enum class StoreKind : uint8_t {
  kHello = 1,  // rank -> store, first message: member
  kWelcome,    // store -> rank, once everybody is there: members by rank
  kSet,        // rank -> store: id, key, text; answered by kValue
  kGet,        // rank -> store: id, key, number (1: take it away); answered by kValue once it is set
  kAdd,        // rank -> store: id, key, number (added); answered by kValue with the sum
  kValue,      // store -> rank: id, text, number
  kBeat,       // both ways: progress; number: milliseconds since it was made.  From the store: of rank 0
  kAbsent,     // store -> rank, until the welcome: text, who has not come; members: rank 0
  kFailure,    // rank -> store: text, why this rank ends.  store -> rank: number (ErrorCode), rank (-1:
               // nobody), text; where that does not say how far the rank was, id: 1 + age in ms of its last
               // report, key: the report
  kBye,        // rank -> store: done, without an error; answered by kBye
  kConfig,     // store -> rank whose digest differs: tell me; rank -> store: text, what the digest is of
  kProgress,   // rank -> store: id, rank; answered by kValue: its text, number: milliseconds since it began
};

// How a rank introduces itself.
struct Member {
  int rank = -1;
  int size = 0;
  int64_t pid = 0;
  std::string host = {};      // for people
  std::string locality = {};  // equal for ranks that can share memory (transport.h)
  std::string machine = {};   // equal for ranks of one host: local ranks and nodes are counted by it
  std::string version = {};
  std::string commit = {};
  std::string config_digest = {};
  std::string config = {};  // what the digest is of; travels in kConfig only
  friend bool operator==(const Member&, const Member&) = default;
};

std::string name_of(const Member& member);                          // "rank 3 (host a, pid 4711)"
std::string named(const Member& member, std::string_view message);  // with that in front, unless it says so

struct StoreMessage {
  StoreKind kind = StoreKind::kBeat;
  uint64_t id = 0;
  int64_t number = 0;
  int rank = -1;
  std::string key = {};
  std::string text = {};
  std::vector<Member> members = {};
  friend bool operator==(const StoreMessage&, const StoreMessage&) = default;
};

// The code that a failure carries as a number; internal when it is none.
ErrorCode error_code_of(int64_t number);

// With the length in front.  REQUIRES: at most kLargestStoreMessage.
std::string to_bytes(const StoreMessage& message);

// The bytes after the length.  Error{data_loss}.
StoreMessage parse_store_message(std::string_view bytes);

// Takes bytes as they arrive, gives whole messages.  Memory grows with what has arrived, never with what a
// length claims.
class StoreInbox {
 public:
  // `longest`: of the next message.  A stranger's first one, the hello, is short.
  explicit StoreInbox(size_t longest = kLargestStoreMessage) : longest_(longest) {}
  void allow(size_t longest) { longest_ = longest; }
  void append(std::string_view bytes) { pending_ += bytes; }
  std::optional<StoreMessage> next();  // Error{data_loss}

 private:
  size_t longest_;
  size_t taken_ = 0;
  std::string pending_ = {};
};

}  // namespace furrow::comm
