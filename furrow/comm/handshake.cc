#include "furrow/comm/handshake.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"

namespace furrow::comm {
namespace {

constexpr std::string_view kMagic = "furrow1\n";
constexpr size_t kPurposeBytes = 8;

struct Opening {
  char magic[kMagic.size()];
  char purpose[kPurposeBytes];
  Challenge challenge;
};
static_assert(sizeof(Opening) == 32);

struct Answer {
  Challenge challenge;
  Proof proof;
};
static_assert(sizeof(Answer) == 48);

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

template <class T>
std::span<std::byte> writable_bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

std::string client_role(std::string_view purpose) { return std::string(purpose) + "client"; }
std::string server_role(std::string_view purpose) { return std::string(purpose) + "server"; }

// Throws when the server is silent or gone.
bool read_opening(const Socket& socket, std::string_view purpose, int64_t deadline_ns, Opening& opening) {
  receive_all(socket, writable_bytes_of(opening), deadline_ns, "the server");
  return std::string_view(opening.magic, kMagic.size()) == kMagic &&
         std::string_view(opening.purpose, kPurposeBytes) == purpose;
}

bool exchange_proofs(const Socket& socket, std::string_view purpose, const Secret& secret,
                     int64_t deadline_ns, const Challenge& challenge) {
  Answer answer;
  answer.challenge = random_challenge();
  answer.proof = secret.prove(client_role(purpose), challenge, answer.challenge);
  send_all(socket, bytes_of(answer), deadline_ns, "the server");
  Proof proof;
  receive_all(socket, writable_bytes_of(proof), deadline_ns, "the server");
  return secret.holds(proof, server_role(purpose), challenge, answer.challenge);
}

}  // namespace

Greeting greet(const Socket& socket, std::string_view purpose, const Secret& secret, int64_t deadline_ns) {
  Greeting otherwise = Greeting::kStranger;
  try {
    Opening opening;
    if (!read_opening(socket, purpose, deadline_ns, opening)) return otherwise;
    otherwise = Greeting::kRefused;
    if (exchange_proofs(socket, purpose, secret, deadline_ns, opening.challenge)) return Greeting::kFriend;
  } catch (const Error&) {  // silent, or gone
  }
  return otherwise;
}

Door::Door(Socket listener, std::string_view purpose, const Secret& secret)
    : listener_(std::move(listener)), purpose_(purpose), secret_(secret) {
  FURROW_CHECK(purpose.size() == kPurposeBytes);
}

bool Door::resting() const { return system_clock().monotonic_ns() < rest_until_ns_; }

void Door::add_polls(std::vector<pollfd>& polls) const {
  if (listener_.open() && !resting()) polls.push_back({listener_.descriptor(), POLLIN, 0});
  for (const Guest& guest : guests_) polls.push_back({guest.socket.descriptor(), POLLIN, 0});
}

int64_t Door::next_deadline_ns() const {
  const int64_t rest = resting() ? rest_until_ns_ : INT64_MAX;
  return guests_.empty() ? rest : std::min(rest, guests_.front().deadline_ns);
}

std::optional<Error> Door::take_knocks() try {
  if (resting()) return std::nullopt;
  while (auto socket = listener_.open() ? accept_from(listener_) : std::nullopt) welcome(std::move(*socket));
  return std::nullopt;
} catch (const Error& error) {
  rest_until_ns_ = system_clock().monotonic_ns() + kRestMs * 1'000'000;
  return error;
}

void Door::welcome(Socket socket) {
  Guest guest;
  guest.challenge = random_challenge();
  guest.deadline_ns = system_clock().monotonic_ns() + kPatienceMs * 1'000'000;
  Opening opening;
  std::memcpy(opening.magic, kMagic.data(), kMagic.size());
  std::memcpy(opening.purpose, purpose_.data(), kPurposeBytes);
  opening.challenge = guest.challenge;
  // A fresh socket has room for it; one that has not is broken.
  const ssize_t sent = send(socket.descriptor(), &opening, sizeof opening, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(sizeof opening)) return;
  guest.from = peer_endpoint(socket);
  guest.socket = std::move(socket);
  if (guests_.size() == kMostGuests) guests_.erase(guests_.begin());
  guests_.push_back(std::move(guest));
}

Door::Progress Door::advance(Guest& guest) const {
  const ssize_t count = recv(guest.socket.descriptor(), guest.answer.data() + guest.received,
                             guest.answer.size() - guest.received, 0);
  if (count == 0) return Progress::kRefused;
  if (count < 0) return errno == EAGAIN || errno == EINTR ? Progress::kWaiting : Progress::kRefused;
  guest.received += static_cast<size_t>(count);
  if (guest.received < guest.answer.size()) return Progress::kWaiting;
  Answer answer;
  std::memcpy(&answer, guest.answer.data(), sizeof answer);
  if (!secret_.holds(answer.proof, client_role(purpose_), guest.challenge, answer.challenge))
    return Progress::kRefused;
  const Proof proof = secret_.prove(server_role(purpose_), guest.challenge, answer.challenge);
  const ssize_t sent = send(guest.socket.descriptor(), proof.data(), proof.size(), MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(proof.size()) ? Progress::kAdmitted : Progress::kRefused;
}

void Door::note_stranger(const Guest& guest, int64_t now_ns) {
  ++strangers_;
  if (now_ns < next_warning_ns_) return;
  const std::string more = strangers_ > 1 ? fmt::format(", nor were {} before it", strangers_ - 1) : "";
  log_warning(
      fmt::format("port {}: a caller from {} is no rank of this job, as it does not prove to hold the job's "
                  "token{}: turned away",
                  local_port(listener_), to_string(guest.from), more));
  strangers_ = 0;
  next_warning_ns_ = now_ns + kWarningMs * 1'000'000;
}

std::vector<Socket> Door::admit() {
  const std::optional<Error> full = take_knocks();
  std::vector<Socket> admitted;
  std::vector<Guest> waiting;
  const int64_t now = system_clock().monotonic_ns();
  for (Guest& guest : guests_) {
    const Progress progress = advance(guest);
    if (progress == Progress::kAdmitted) admitted.push_back(std::move(guest.socket));
    if (progress == Progress::kAdmitted) continue;
    if (progress == Progress::kWaiting && now < guest.deadline_ns) {
      waiting.push_back(std::move(guest));
    } else if (guest.received > 0) {  // whoever says nothing only looks whether the port is open
      note_stranger(guest, now);
    }
  }
  guests_ = std::move(waiting);
  if (full && admitted.empty()) throw Error(*full);
  return admitted;
}

}  // namespace furrow::comm
