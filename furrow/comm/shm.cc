#include "furrow/comm/transports.h"
namespace furrow::comm {
std::unique_ptr<Transport> make_shm(const JoinContext&) { return nullptr; }
}  // namespace furrow::comm
