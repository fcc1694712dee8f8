#include "furrow/comm/inproc.h"

#include <sys/mman.h>

#include "furrow/base/process.h"
#include "furrow/comm/shared_transport.h"
#include "furrow/comm/transports.h"

namespace furrow::comm {
namespace {

class InprocTransport : public SharedTransport {
 public:
  InprocTransport(Roster roster, std::shared_ptr<InprocWorld> world)
      : SharedTransport(std::move(roster), world->controls()), world_(std::move(world)) {}
  ~InprocTransport() override { leave(); }

  std::string_view name() const override { return "inproc"; }
  std::unique_ptr<Memory::Block> allocate(size_t bytes) override { return plain_block(bytes); }
  bool is_registered(std::span<const std::byte>) const override { return true; }

 private:
  std::optional<Location> locate(std::span<const std::byte> bytes) const override {
    return Location{0, reinterpret_cast<uintptr_t>(bytes.data())};
  }
  std::byte* resolve(int, Location location, uint64_t) override {
    return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(location.offset));
  }
  bool died(int) override { return false; }  // a thread that throws aborts

  std::shared_ptr<InprocWorld> world_;
};

}  // namespace

InprocWorld::InprocWorld(int size) {
  for (int r = 0; r < size; ++r) {
    void* bytes =
        mmap(nullptr, control_bytes(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
      throw Error(ErrorCode::kResourceExhausted, "no memory for the lanes between ranks");
    controls_.push_back(make_control(bytes));
  }
}

InprocWorld::~InprocWorld() {
  for (Control* control : controls_) munmap(control, control_bytes(size()));
}

Roster inproc_roster(int rank, int size) {
  Roster roster{rank, {}};
  for (int r = 0; r < size; ++r) roster.ranks.push_back({host_name(), process_id(), shm_locality()});
  return roster;
}

std::unique_ptr<Transport> make_inproc(const JoinContext& context) {
  if (!context.inproc) return nullptr;
  return std::make_unique<InprocTransport>(context.roster, context.inproc);
}

std::unique_ptr<Communicator> join_inproc(std::shared_ptr<InprocWorld> world, int rank,
                                          CommunicatorOptions options) {
  Roster roster = inproc_roster(rank, world->size());
  std::vector<std::unique_ptr<Transport>> transports;
  transports.push_back(make_transport("inproc", {.roster = roster, .inproc = std::move(world)}));
  return std::make_unique<Communicator>(std::move(roster), std::move(transports), std::move(options));
}

}  // namespace furrow::comm
