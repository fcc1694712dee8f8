#include "furrow/comm/handshake.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/comm/wire.h"

namespace furrow::comm {
namespace {

constexpr std::string_view kMagic = "furrow1\n";
constexpr size_t kPurposeBytes = 8;

struct Opening {
  char magic[kMagic.size()];
  char purpose[kPurposeBytes];
  Challenge challenge;
};
static_assert(sizeof(Opening) == Reception::kOpeningBytes);

struct Answer {
  Challenge challenge;
  Proof proof;
};
static_assert(sizeof(Answer) == Reception::kAnswerBytes);

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

bool send_at_once(const Socket& socket, std::span<const std::byte> bytes) {
  const ssize_t sent = send(socket.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(bytes.size());
}

// Throws when the server is silent or gone.
bool read_opening(const Socket& socket, std::string_view purpose, const Patience& patience,
                  Opening& opening) {
  receive_all(socket, writable_bytes_of(opening), patience, "the server");
  return std::string_view(opening.magic, kMagic.size()) == kMagic &&
         std::string_view(opening.purpose, kPurposeBytes) == purpose;
}

bool exchange_proofs(const Socket& socket, std::string_view purpose, const Secret& secret,
                     const Patience& patience, const Challenge& challenge) {
  Answer answer;
  answer.challenge = random_challenge();
  answer.proof = secret.prove(client_role(purpose), challenge, answer.challenge);
  send_all(socket, bytes_of(answer), patience, "the server");
  Proof proof;
  receive_all(socket, writable_bytes_of(proof), patience, "the server");
  return secret.holds(proof, server_role(purpose), challenge, answer.challenge);
}

}  // namespace

Greeting greet(const Socket& socket, std::string_view purpose, const Secret& secret,
               const Patience& patience) {
  Greeting otherwise = Greeting::kStranger;
  try {
    Opening opening;
    if (!read_opening(socket, purpose, patience, opening)) return otherwise;
    otherwise = Greeting::kRefused;
    if (exchange_proofs(socket, purpose, secret, patience, opening.challenge)) return Greeting::kFriend;
  } catch (const Error&) {  // silent, or gone
  }
  return otherwise;
}

std::array<std::byte, Reception::kOpeningBytes> Reception::opening() const {
  Opening opening;
  std::memcpy(opening.magic, kMagic.data(), kMagic.size());
  std::memcpy(opening.purpose, purpose_.data(), kPurposeBytes);
  opening.challenge = challenge_;
  return std::bit_cast<std::array<std::byte, kOpeningBytes>>(opening);
}

Reception::Verdict Reception::take(size_t count, const Secret& secret) {
  received_ += count;
  FURROW_CHECK(received_ <= answer_.size());
  if (received_ < answer_.size()) return Verdict::kWaiting;
  const auto answer = std::bit_cast<Answer>(answer_);
  const bool holds = secret.holds(answer.proof, client_role(purpose_), challenge_, answer.challenge);
  return holds ? Verdict::kFriend : Verdict::kStranger;
}

Proof Reception::proof(const Secret& secret) const {
  return secret.prove(server_role(purpose_), challenge_, std::bit_cast<Answer>(answer_).challenge);
}

IntroductionBytes to_bytes(const Introduction& introduction) {
  WireWriter out;
  out.number(int32_t{introduction.rank}).number(int32_t{introduction.connection});
  IntroductionBytes bytes;
  std::memcpy(bytes.data(), out.bytes().data(), bytes.size());
  return bytes;
}

Introduction parse_introduction(const IntroductionBytes& bytes) {
  WireReader in({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const int rank = in.number<int32_t>();
  return {rank, in.number<int32_t>()};
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
  const Reception reception(purpose_);
  // A fresh socket has room for it; one that has not is broken.
  if (!send_at_once(socket, reception.opening())) return;
  const int64_t deadline_ns = system_clock().monotonic_ns() + kPatienceMs * 1'000'000;
  const Endpoint from = peer_endpoint(socket);
  if (guests_.size() == kMostGuests) guests_.erase(guests_.begin());
  guests_.push_back({std::move(socket), from, reception, deadline_ns});
}

Reception::Verdict Door::advance(Guest& guest) const {
  using Verdict = Reception::Verdict;
  const std::span<std::byte> room = guest.reception.room();
  const ssize_t count = recv(guest.socket.descriptor(), room.data(), room.size(), 0);
  if (count == 0) return Verdict::kStranger;
  if (count < 0) return errno == EAGAIN || errno == EINTR ? Verdict::kWaiting : Verdict::kStranger;
  const Verdict verdict = guest.reception.take(static_cast<size_t>(count), secret_);
  if (verdict != Verdict::kFriend) return verdict;
  return send_at_once(guest.socket, guest.reception.proof(secret_)) ? verdict : Verdict::kStranger;
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
    const Reception::Verdict verdict = advance(guest);
    if (verdict == Reception::Verdict::kFriend) {
      admitted.push_back(std::move(guest.socket));
    } else if (verdict == Reception::Verdict::kWaiting && now < guest.deadline_ns) {
      waiting.push_back(std::move(guest));
    } else if (!guest.reception.silent()) {  // whoever says nothing only looks whether the port is open
      note_stranger(guest, now);
    }
  }
  guests_ = std::move(waiting);
  if (full && admitted.empty()) throw Error(*full);
  return admitted;
}

}  // namespace furrow::comm
