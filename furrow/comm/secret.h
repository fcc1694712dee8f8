// The job's secret, and proofs of holding it.  The token itself never goes over a wire: each side answers the
// other's random challenge with a keyed hash (BLAKE2b, RFC 7693, from libsodium).
//
// What it protects: with a random FURROW_JOB_TOKEN (furrow's launcher sets one) nobody without it can join a
// job, read its store or take a connection.  Without one the token is made of the job's id and address, which
// keeps apart jobs that meet by accident, not somebody who knows the id.  What follows the handshake is
// neither encrypted nor authenticated message by message: a network where others can rewrite packets needs a
// tunnel below.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace furrow::comm {

using Challenge = std::array<std::byte, 16>;
using Proof = std::array<std::byte, 32>;

Challenge random_challenge();  // thread safe

// Immutable and thread safe.
class Secret {
 public:
  explicit Secret(std::string_view token);

  // Of `role` ("store server", "data client", ...) answering both sides' challenges.
  Proof prove(std::string_view role, const Challenge& server, const Challenge& client) const;

  // Does `proof` equal what prove() would say?  In constant time.
  bool holds(const Proof& proof, std::string_view role, const Challenge& server,
             const Challenge& client) const;

 private:
  std::array<std::byte, 32> key_;
};

}  // namespace furrow::comm
