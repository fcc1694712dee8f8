// The rendezvous store, served by a thread of rank 0: values by key, and the watch over the ranks.
//
// Every rank keeps one connection to it.  The door: a rank that runs another version, commit or configuration
// than rank 0 is refused by name on every rank.  The watch: a connection that ends without a goodbye, and a
// rank that was silent for too long (stopped, or cut off), is told to all others at once, with the last
// progress that it reported. The first failure stands; it is also what ranks hear that come later.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/comm/descriptors.h"
#include "furrow/comm/handshake.h"
#include "furrow/comm/report.h"
#include "furrow/comm/silence.h"
#include "furrow/comm/store_connection.h"
#include "furrow/comm/wakeup.h"

namespace furrow::comm {

class StoreServer {
 public:
  static constexpr uint64_t kSpare = 2;  // descriptors that it holds back to tell of the lack of others
  // `host`: rank 0, whom the others must equal in size, version, commit and configuration.  `silence_ms`: a
  // rank that says nothing for so long has failed.  `refusal`: it only tells whoever comes, as refuse() does.
  StoreServer(Socket listener, const Secret& secret, Member host, int64_t silence_ms,
              std::optional<Error> refusal = std::nullopt);
  // After a failure waits a moment for those that have come to hear why; for the others wait_until_all_came()
  // before.
  ~StoreServer();
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  Endpoint endpoint() const { return endpoint_; }
  // This host's address as a rank of another host has used it; "" while none has come.  Any thread.
  std::string reached_at();
  // Rank 0 fails with `reason` before it has a connection of its own: what everybody hears that has come, and
  // whoever still comes.  Nothing where something failed before.  Any thread.
  void refuse(const Error& reason);
  // Until every rank has come, were it to say why it fails; false at the deadline (Clock::monotonic_ns).  Any
  // thread.
  bool wait_until_all_came(int64_t deadline_ns);
  // Until every rank has said goodbye; throws the failure of one that has not.  Any thread.
  void wait_until_left();

 private:
  struct Client {
    Client(Socket socket, int64_t silence_ms);
    StoreConnection connection;
    std::optional<Member> member;  // after its hello
    Silence silence;
    Report progress;     // by this process's clock
    bool asked = false;  // for its configuration, which differs
  };
  struct Waiting {
    Client* client;
    uint64_t id;
    bool takes;
  };

  void serve();
  void poll_once();
  int poll_timeout() const;
  void admit();
  void take_refusal();
  void take_messages(Client& client);
  void handle_inbox(Client& client, bool alive);
  void handle(Client& client, const StoreMessage& message);
  void greet_member(Client& client, const Member& member);
  void refuse_second(Client& client, const Member& member, const Member* first);
  std::string door_objection(const Member& member) const;
  std::string config_objection(const Member& member, const std::string& config) const;
  void answer_progress(Client& client, const StoreMessage& question);
  void welcome_all();  // rank 0 last: what it does then, the others meet knowing it
  void get_value(Client& client, const StoreMessage& message);
  void set_value(const std::string& key, const std::string& text);
  void answer(Client& client, uint64_t id, const std::string& text, int64_t number = 0);
  void beat();
  void check_silence(int64_t awake_ns);
  void lose(Client& client);
  void drop(Client& client);
  void fail(ErrorCode code, int rank, const std::string& text, const std::optional<Report>& last = {});
  void note_came();
  void note_left(int rank);
  void note_way(const Client& client);
  std::string absent() const;
  bool lingering(int64_t now_ns) const;

  const Secret secret_;
  const Member host_;
  const int64_t silence_ms_;
  const int64_t interval_ns_;
  const Endpoint endpoint_;
  const Wakeup wakeup_;

  // Of the serving thread.
  Door door_;
  SpareDescriptors spare_;  // until everybody is there, or something failed
  std::list<Client> clients_;
  std::vector<Client*> by_rank_;
  std::map<std::string, std::string> values_;
  std::map<std::string, int64_t> counters_;
  std::map<std::string, std::vector<Waiting>> waiting_;
  std::optional<StoreMessage> failure_;
  int64_t next_beat_ns_ = 0;
  int64_t ended_ns_ = 0;  // of this object; then it lingers
  int came_ = 0;
  bool own_came_ = false;  // rank 0, among them
  bool odd_ = false;       // a rank has another configuration, and is asked for it

  std::mutex mutex_;
  std::condition_variable changed_;
  bool all_came_ = false;
  std::vector<bool> left_;
  std::optional<Error> failed_, refusal_;
  std::string reached_at_;
  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace furrow::comm
