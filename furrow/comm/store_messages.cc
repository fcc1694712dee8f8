#include "furrow/comm/store_messages.h"

#include <fmt/format.h>

#include "furrow/comm/wire.h"

namespace furrow::comm {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kConsumedBeforeMove = 64 * 1024;

void write_member(WireWriter& out, const Member& member) {
  out.number(int32_t{member.rank}).number(int32_t{member.size}).number(member.pid);
  out.text(member.host).text(member.locality).text(member.machine);
  out.text(member.version).text(member.commit).text(member.config_digest);
}

Member read_member(WireReader& in) {
  Member member;
  member.rank = in.number<int32_t>();
  member.size = in.number<int32_t>();
  member.pid = in.number<int64_t>();
  member.host = in.text();
  member.locality = in.text();
  member.machine = in.text();
  member.version = in.text();
  member.commit = in.text();
  member.config_digest = in.text();
  return member;
}

}  // namespace

ErrorCode error_code_of(int64_t number) {
  const bool known = number >= 0 && number <= static_cast<int64_t>(ErrorCode::kInternal);
  return known ? static_cast<ErrorCode>(number) : ErrorCode::kInternal;
}

std::string name_of(const Member& member) {
  return fmt::format("rank {} (host {}, pid {})", member.rank, member.host, member.pid);
}

std::string named(const Member& member, std::string_view message) {
  const std::string name = name_of(member);
  const bool says = message.find(name) != std::string_view::npos;
  return says ? std::string(message) : fmt::format("{}: {}", name, message);
}

std::string to_bytes(const StoreMessage& message) {
  WireWriter body;
  body.number(static_cast<uint8_t>(message.kind));
  body.number(message.id).number(message.number).number(int32_t{message.rank});
  body.text(message.key).text(message.text);
  body.number(static_cast<uint32_t>(message.members.size()));
  for (const Member& member : message.members) write_member(body, member);
  FURROW_CHECK(body.bytes().size() <= kLargestStoreMessage, "a message to the store is too large");
  WireWriter whole;
  whole.text(body.bytes());
  return whole.bytes();
}

StoreMessage parse_store_message(std::string_view bytes) {
  WireReader in(bytes);
  StoreMessage message;
  const auto kind = in.number<uint8_t>();
  if (kind < static_cast<uint8_t>(StoreKind::kHello) || kind > static_cast<uint8_t>(StoreKind::kProgress)) {
    throw Error(ErrorCode::kDataLoss, fmt::format("a message of the unknown kind {}", kind));
  }
  message.kind = static_cast<StoreKind>(kind);
  message.id = in.number<uint64_t>();
  message.number = in.number<int64_t>();
  message.rank = in.number<int32_t>();
  message.key = in.text();
  message.text = in.text();
  const auto count = in.number<uint32_t>();
  for (uint32_t i = 0; i < count; ++i) message.members.push_back(read_member(in));
  in.end();
  return message;
}

std::optional<StoreMessage> StoreInbox::next() {
  const std::string_view rest = std::string_view(pending_).substr(taken_);
  if (rest.size() < kLengthBytes) return std::nullopt;
  const auto length = WireReader(rest.substr(0, kLengthBytes)).number<uint32_t>();
  if (length > longest_) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("a message of {} bytes where {} are allowed", length, longest_));
  }
  if (rest.size() - kLengthBytes < length) return std::nullopt;
  StoreMessage message = parse_store_message(rest.substr(kLengthBytes, length));
  taken_ += kLengthBytes + length;
  if (taken_ == pending_.size() || taken_ >= kConsumedBeforeMove) {
    pending_.erase(0, taken_);
    taken_ = 0;
  }
  return message;
}

}  // namespace furrow::comm
