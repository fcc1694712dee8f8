// Any bytes are messages to the store, or frames, or what either side says at the door, or a caller's
// introduction, or where a rank is called, or a tuning file, or none of them; what parses survives its own
// bytes, and nothing that is merely claimed is allocated.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/frame.h"
#include "furrow/comm/handshake.h"
#include "furrow/comm/store_messages.h"
#include "furrow/comm/tcp_connect.h"

namespace {

using namespace furrow::comm;

void read_as_store_messages(std::string_view bytes) {
  StoreInbox inbox;
  const size_t half = bytes.size() / 2;  // in two pieces, as the network may cut it
  for (const std::string_view piece : {bytes.substr(0, half), bytes.substr(half)}) {
    inbox.append(piece);
    while (const auto message = inbox.next()) {
      if (!(parse_store_message(std::string_view(to_bytes(*message)).substr(4)) == *message)) std::abort();
    }
  }
}

void read_as_frames(std::span<const std::byte> bytes) {
  while (bytes.size() >= sizeof(FrameHeader)) {
    const FrameHeader header = parse_frame_header(bytes.first<sizeof(FrameHeader)>());
    if (header.offset + header.bytes > header.total) std::abort();
    if (!std::ranges::equal(to_bytes(header), bytes.first(sizeof(FrameHeader)))) std::abort();
    (void)describe(header.envelope);
    bytes = bytes.subspan(std::min(bytes.size(), sizeof(FrameHeader) + size_t{header.bytes}));
  }
}

// The checksum keeps a fuzzer out; behind it the same rules hold.
void read_with_a_right_checksum(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(FrameHeader)) return;
  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  header.magic = kFrameMagic;
  const FrameHeaderBytes right = to_bytes(header);
  read_as_frames(right);
}

const Secret& secret() {
  static const Secret one("token");
  return one;
}

// A caller hears them at a port: whoever does not hold the token is no friend.
void read_as_a_greeting(std::span<const std::byte> bytes) {
  constexpr int64_t kSecondNs = 1'000'000'000;
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()) != 0) return;
  Socket caller(ends[0]);
  const Socket server(ends[1]);
  (void)send(server.descriptor(), bytes.data(), std::min<size_t>(bytes.size(), 1024), MSG_NOSIGNAL);
  shutdown(server.descriptor(), SHUT_WR);
  const int64_t deadline_ns = furrow::system_clock().monotonic_ns() + kSecondNs;
  if (greet(caller, kStorePurpose, secret(), deadline_ns) == Greeting::kFriend) std::abort();
}

// Feeds `bytes` as a network cuts them, in pieces of `piece`: what is known of the caller at the end.  Never
// before the last byte of an answer.
Reception::Verdict receive(Reception& reception, std::span<const std::byte> bytes, size_t piece) {
  auto verdict = Reception::Verdict::kWaiting;
  for (size_t taken = 0; verdict == Reception::Verdict::kWaiting && !bytes.empty();) {
    const size_t count = std::min({piece, bytes.size(), reception.room().size()});
    std::ranges::copy(bytes.first(count), reception.room().begin());
    bytes = bytes.subspan(count);
    verdict = reception.take(count, secret());
    taken += count;
    if ((verdict == Reception::Verdict::kWaiting) != (taken < Reception::kAnswerBytes)) std::abort();
  }
  return verdict;
}

// A server hears them from a caller: no bytes are a proof, but the right one is, and none that differs from
// it in a bit.
void read_as_an_answer(std::span<const std::byte> bytes) {
  constexpr std::string_view kRole = "data    client";
  if (bytes.empty()) return;
  const size_t piece = 1 + std::to_integer<size_t>(bytes[0]) % Reception::kAnswerBytes;
  Challenge challenge{};
  std::ranges::copy(bytes.first(std::min(bytes.size(), challenge.size())), challenge.begin());
  Reception stranger(kDataPurpose, challenge);
  if (receive(stranger, bytes, piece) == Reception::Verdict::kFriend) std::abort();

  std::array<std::byte, Reception::kAnswerBytes> right{};  // its challenge, then the proof
  const Proof proof = secret().prove(kRole, challenge, challenge);
  std::ranges::copy(proof, std::ranges::copy(challenge, right.begin()).out);
  Reception friendly(kDataPurpose, challenge);
  if (receive(friendly, right, piece) != Reception::Verdict::kFriend) std::abort();
  const auto bit = std::to_integer<size_t>(bytes.back()) + 8 * bytes.size();
  right[bit / 8 % right.size()] ^= std::byte{1} << bit % 8;
  Reception damaged(kDataPurpose, challenge);
  if (receive(damaged, right, piece) != Reception::Verdict::kStranger) std::abort();
}

// Only a rank that is waited for has a place: nothing else may be used as a number of one.
void read_as_an_introduction(std::span<const std::byte> bytes) {
  constexpr int kOwn = 1, kConnections = 2;
  IntroductionBytes eight{};
  std::ranges::copy(bytes.first(std::min(bytes.size(), eight.size())), eight.begin());
  const Introduction said = parse_introduction(eight);
  if (to_bytes(said) != eight) std::abort();
  if (!is_awaited(said, kOwn, {0, 2, 3}, kConnections)) return;
  if (said.rank < 2 || said.rank > 3 || said.connection < 0 || said.connection > kConnections) std::abort();
}

void read_as_an_endpoint(std::string_view bytes) {
  const Endpoint endpoint = parse_endpoint(bytes);
  if (endpoint.port < 1 || endpoint.port > 65535 || endpoint.address.empty()) std::abort();
  if (!(parse_endpoint(to_text(endpoint)) == endpoint)) std::abort();
}

// Rank 0's goes to all others.
void read_as_a_tuning_file(std::string_view bytes) {
  try {
    const std::string text = AlgorithmTable::parse(bytes).to_text();
    if (AlgorithmTable::parse(text).to_text() != text) std::abort();
  } catch (const furrow::Error& error) {
    if (error.code() != furrow::ErrorCode::kInvalidArgument) throw;
  }
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const auto& attempt :
       {+[](std::span<const std::byte> b) { read_as_store_messages(text_of(b)); },
        +[](std::span<const std::byte> b) { read_as_a_tuning_file(text_of(b)); },
        +[](std::span<const std::byte> b) { read_as_an_endpoint(text_of(b)); }, &read_as_frames,
        &read_with_a_right_checksum, &read_as_a_greeting, &read_as_an_answer, &read_as_an_introduction}) {
    try {
      attempt(bytes);
    } catch (const furrow::Error& error) {
      if (error.code() != furrow::ErrorCode::kDataLoss) std::abort();
    }
  }
  return 0;
}
