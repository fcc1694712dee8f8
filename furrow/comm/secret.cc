#include "furrow/comm/secret.h"

#include <sodium.h>

#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

const unsigned char* bytes_of(const void* data) { return static_cast<const unsigned char*>(data); }

void start_library() {
  static const int status = sodium_init();  // 1: already started
  FURROW_CHECK(status >= 0, "libsodium finds no source of randomness");
}

}  // namespace

Challenge random_challenge() {
  start_library();
  Challenge challenge;
  randombytes_buf(challenge.data(), challenge.size());
  return challenge;
}

Secret::Secret(std::string_view token) {
  start_library();
  constexpr std::string_view kPurpose = "furrow job token";
  crypto_generichash(reinterpret_cast<unsigned char*>(key_.data()), key_.size(), bytes_of(token.data()),
                     token.size(), bytes_of(kPurpose.data()), kPurpose.size());
}

Proof Secret::prove(std::string_view role, const Challenge& server, const Challenge& client) const {
  Proof proof;
  crypto_generichash_state state;
  crypto_generichash_init(&state, bytes_of(key_.data()), key_.size(), proof.size());
  crypto_generichash_update(&state, bytes_of(server.data()), server.size());
  crypto_generichash_update(&state, bytes_of(client.data()), client.size());
  crypto_generichash_update(&state, bytes_of(role.data()),
                            role.size());  // last: the others have fixed lengths
  crypto_generichash_final(&state, reinterpret_cast<unsigned char*>(proof.data()), proof.size());
  return proof;
}

bool Secret::holds(const Proof& proof, std::string_view role, const Challenge& server,
                   const Challenge& client) const {
  const Proof expected = prove(role, server, client);
  return sodium_memcmp(expected.data(), proof.data(), proof.size()) == 0;
}

}  // namespace furrow::comm
