// Who proves what to whom: neither side takes the other for a friend but for a proof of the job's token that
// answers both challenges of this very conversation, for this purpose, by the other side.
#include "furrow/comm/handshake.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "furrow/base/clock.h"

namespace furrow::comm {
namespace {

using Answer = std::array<std::byte, Reception::kAnswerBytes>;
using Verdict = Reception::Verdict;

int64_t in_seconds(int64_t seconds) { return system_clock().monotonic_ns() + seconds * 1'000'000'000; }

Challenge challenge_of(int seed) {
  Challenge challenge;
  challenge.fill(static_cast<std::byte>(seed));
  return challenge;
}

// What a caller that holds `secret` answers to `server` in a conversation of that purpose.
Answer answer_to(const Challenge& server, const Secret& secret, std::string_view purpose) {
  const Challenge client = challenge_of(9);
  const Proof proof = secret.prove(std::string(purpose) + "client", server, client);
  Answer answer;
  std::memcpy(answer.data(), client.data(), client.size());
  std::memcpy(answer.data() + client.size(), proof.data(), proof.size());
  return answer;
}

Verdict verdict_on(const Answer& answer, Reception reception, const Secret& secret) {
  std::ranges::copy(answer, reception.room().begin());
  return reception.take(answer.size(), secret);
}

TEST(Secret, AProofIsOfOneTokenRoleAndConversation) {
  const Secret secret("token");
  const Challenge a = challenge_of(1), b = challenge_of(2);
  const Proof proof = secret.prove("store client", a, b);
  EXPECT_EQ(Secret("token").prove("store client", a, b), proof) << "control";
  EXPECT_TRUE(secret.holds(proof, "store client", a, b));
  EXPECT_FALSE(Secret("Token").holds(proof, "store client", a, b));
  EXPECT_FALSE(secret.holds(proof, "store server", a, b));
  EXPECT_FALSE(secret.holds(proof, "data client", a, b));
  EXPECT_FALSE(secret.holds(proof, "store client", b, a));
  EXPECT_FALSE(secret.holds(proof, "store client", a, a));
  EXPECT_FALSE(secret.holds(proof, "store client", b, b));
  for (size_t i = 0; i < proof.size(); ++i) {
    Proof damaged = proof;
    damaged[i] ^= std::byte{1};
    EXPECT_FALSE(secret.holds(damaged, "store client", a, b)) << i;
  }
}

TEST(Secret, NobodyIsAskedTheSameTwice) {
  const Challenge first = random_challenge();
  for (int i = 0; i < 100; ++i) EXPECT_NE(random_challenge(), first);
  EXPECT_NE(Reception(kStorePurpose).opening(), Reception(kStorePurpose).opening());
}

TEST(Reception, TakesAnAnswerToItsOwnQuestionAlone) {
  const Secret secret("token"), other("another");
  const Reception store(kStorePurpose, challenge_of(1));
  EXPECT_EQ(verdict_on(answer_to(challenge_of(1), secret, kStorePurpose), store, secret), Verdict::kFriend)
      << "control";
  EXPECT_EQ(verdict_on(answer_to(challenge_of(1), other, kStorePurpose), store, secret), Verdict::kStranger);
  EXPECT_EQ(verdict_on(answer_to(challenge_of(2), secret, kStorePurpose), store, secret), Verdict::kStranger)
      << "what was heard in an earlier conversation";
  EXPECT_EQ(verdict_on(answer_to(challenge_of(1), secret, kDataPurpose), store, secret), Verdict::kStranger)
      << "what was heard at another door";
  Reception half(kStorePurpose, challenge_of(1));
  EXPECT_EQ(half.take(Reception::kAnswerBytes - 1, secret), Verdict::kWaiting);
  EXPECT_EQ(half.room().size(), 1U);
}

// What a caller that holds "token" makes of a server that says `last` of the caller's answer.
Greeting greeting_of(const std::function<Proof(Reception&, const Answer&)>& last) {
  const auto listener = listen_at("127.0.0.1", 0);
  std::jthread server([&] {
    std::optional<Socket> guest;
    for (; !guest; guest = accept_from(*listener)) std::this_thread::yield();
    Reception reception(kStorePurpose);
    send_all(*guest, reception.opening(), in_seconds(30), "the caller");
    receive_all(*guest, reception.room(), in_seconds(30), "the caller");
    Answer answer;
    std::ranges::copy(reception.room(), answer.begin());
    const Proof proof = last(reception, answer);
    send_all(*guest, proof, in_seconds(30), "the caller");
  });
  const auto socket = connect_to("127.0.0.1", local_port(*listener), in_seconds(30));
  return greet(*socket, kStorePurpose, Secret("token"), in_seconds(30));
}

// A caller tells nothing of the job to whoever listens at rank 0's port and proves nothing.
TEST(Greet, AServerProvesThatItHoldsTheTokenToo) {
  const auto proof_by = [](const char* token) {
    return [token](Reception& reception, const Answer& answer) {
      reception.take(answer.size(), Secret(token));
      return reception.proof(Secret(token));
    };
  };
  EXPECT_EQ(greeting_of(proof_by("token")), Greeting::kFriend) << "control";
  EXPECT_EQ(greeting_of(proof_by("another")), Greeting::kRefused);
  const auto own_words = [](Reception&, const Answer& answer) {
    Proof proof;
    std::memcpy(proof.data(), answer.data() + sizeof(Challenge), proof.size());
    return proof;
  };
  EXPECT_EQ(greeting_of(own_words), Greeting::kRefused) << "what the caller has said itself";
}

}  // namespace
}  // namespace furrow::comm
