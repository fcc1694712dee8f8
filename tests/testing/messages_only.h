// A transport of a test without its memory.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "furrow/comm/transport.h"

namespace furrow::testing {

// Algorithms see messages only, as between hosts.
class MessagesOnly : public comm::Transport {
 public:
  explicit MessagesOnly(std::unique_ptr<comm::Transport> inner) : inner_(std::move(inner)) {}
  std::string_view name() const override { return "messages"; }
  bool reaches(int peer) const override { return inner_->reaches(peer); }
  comm::Ticket post_send(int peer, const comm::Envelope& e, std::span<const std::byte> bytes) override {
    return inner_->post_send(peer, e, bytes);
  }
  comm::Ticket post_recv(int peer, const comm::Envelope& e, std::span<std::byte> bytes) override {
    return inner_->post_recv(peer, e, bytes);
  }
  void wait(comm::Ticket ticket, int64_t deadline_ns) override { inner_->wait(ticket, deadline_ns); }
  std::unique_ptr<comm::Memory::Block> allocate(size_t bytes) override { return inner_->allocate(bytes); }
  void abort(const Error& reason) noexcept override { inner_->abort(reason); }
  void on_failure(std::function<void(const Error&)> handler) override {
    inner_->on_failure(std::move(handler));
  }
  const comm::WireCounts& wire() const override { return inner_->wire(); }

 private:
  std::unique_ptr<comm::Transport> inner_;
};

}  // namespace furrow::testing
