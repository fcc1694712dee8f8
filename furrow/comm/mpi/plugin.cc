// libfurrow_mpi.so: the only file that is compiled against MPI (its C interface, level 3.0).
#include "furrow/comm/mpi/plugin.h"

#include <mpi.h>

#include <cstring>

namespace furrow::comm {
namespace {

bool started_here = false;

template <class Mpi>
MpiHandle to_handle(Mpi value) {
  static_assert(sizeof(Mpi) <= sizeof(MpiHandle));
  MpiHandle handle = 0;
  std::memcpy(&handle, &value, sizeof(value));
  return handle;
}

template <class Mpi>
Mpi from_handle(MpiHandle handle) {
  Mpi value;
  std::memcpy(&value, &handle, sizeof(value));
  return value;
}

MpiError to_error(int code) {
  if (code == MPI_SUCCESS) return nullptr;
  static char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) return "an error that MPI has no words for";
  return text;
}

#define RETURN_IF_ERROR(expression)                                                \
  do {                                                                             \
    if (const int code = (expression); code != MPI_SUCCESS) return to_error(code); \
  } while (false)

const char* name_of_level(int level) {
  return level == MPI_THREAD_MULTIPLE     ? "MPI_THREAD_MULTIPLE"
         : level == MPI_THREAD_SERIALIZED ? "MPI_THREAD_SERIALIZED"
         : level == MPI_THREAD_FUNNELED   ? "MPI_THREAD_FUNNELED"
                                          : "MPI_THREAD_SINGLE";
}

MpiError init(MpiFacts& facts) {
  int initialized = 0, finalized = 0, level = 0;
  RETURN_IF_ERROR(MPI_Initialized(&initialized));
  RETURN_IF_ERROR(MPI_Finalized(&finalized));
  if (finalized != 0) return "MPI has ended in this process, and MPI cannot start twice";
  if (initialized == 0) {
    RETURN_IF_ERROR(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level));
    started_here = true;
  }
  RETURN_IF_ERROR(MPI_Query_thread(&level));
  RETURN_IF_ERROR(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  RETURN_IF_ERROR(MPI_Comm_rank(MPI_COMM_WORLD, &facts.rank));
  RETURN_IF_ERROR(MPI_Comm_size(MPI_COMM_WORLD, &facts.size));
  int* bound = nullptr;
  int found = 0;
  RETURN_IF_ERROR(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &found));
  facts.tag_bound = found != 0 ? *bound : 32767;  // the least that MPI allows
  facts.serialized = level >= MPI_THREAD_SERIALIZED;
  facts.thread_level = name_of_level(level);
  static char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  RETURN_IF_ERROR(MPI_Get_library_version(version, &length));
  facts.library_version = version;
  return nullptr;
}

MpiError finalize() {
  int finalized = 0;
  RETURN_IF_ERROR(MPI_Finalized(&finalized));
  return started_here && finalized == 0 ? to_error(MPI_Finalize()) : nullptr;
}

MpiError duplicate_world(MpiHandle& comm) {
  MPI_Comm made;
  RETURN_IF_ERROR(MPI_Comm_dup(MPI_COMM_WORLD, &made));
  RETURN_IF_ERROR(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN));
  comm = to_handle(made);
  return nullptr;
}

MpiError create_group(MpiHandle world, std::span<const int> members, int tag, MpiHandle& comm) {
  const auto world_comm = from_handle<MPI_Comm>(world);
  MPI_Group all, some;
  RETURN_IF_ERROR(MPI_Comm_group(world_comm, &all));
  RETURN_IF_ERROR(MPI_Group_incl(all, static_cast<int>(members.size()), members.data(), &some));
  MPI_Comm made;
  RETURN_IF_ERROR(MPI_Comm_create_group(world_comm, some, tag, &made));
  RETURN_IF_ERROR(MPI_Group_free(&some));
  RETURN_IF_ERROR(MPI_Group_free(&all));
  RETURN_IF_ERROR(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN));
  comm = to_handle(made);
  return nullptr;
}

MpiError free_comm(MpiHandle& comm) {
  auto freed = from_handle<MPI_Comm>(comm);
  RETURN_IF_ERROR(MPI_Comm_free(&freed));
  comm = to_handle(freed);
  return nullptr;
}

// Elements that are only moved: their bits.
MPI_Datatype bits_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return MPI_UINT64_T;
    case DType::kF32:
    case DType::kI32:
      return MPI_UINT32_T;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return MPI_UINT16_T;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return MPI_UINT8_T;
  }
  return MPI_DATATYPE_NULL;
}

// Elements that MPI reduces; sums and products of integers as unsigned ones, so that they wrap.
MPI_Datatype number_of(DType dtype, Reduction reduction) {
  if (dtype == DType::kF64) return MPI_DOUBLE;
  if (dtype == DType::kF32) return MPI_FLOAT;
  const bool compares = reduction == Reduction::kMin || reduction == Reduction::kMax;
  if (compares && dtype == DType::kI64) return MPI_INT64_T;
  if (compares && dtype == DType::kI32) return MPI_INT32_T;
  return bits_of(dtype);
}

MPI_Op operation_of(Reduction reduction) {
  switch (reduction) {
    case Reduction::kSum:
    case Reduction::kAvg:
      return MPI_SUM;
    case Reduction::kMin:
      return MPI_MIN;
    case Reduction::kMax:
      return MPI_MAX;
    case Reduction::kProd:
      return MPI_PROD;
  }
  return MPI_OP_NULL;
}

const void* or_in_place(const void* in) { return in == nullptr ? MPI_IN_PLACE : in; }

int start_reduction(const MpiCall& c, MPI_Comm comm, MPI_Request* request) {
  const MPI_Datatype type = number_of(c.dtype, c.reduction);
  const MPI_Op op = operation_of(c.reduction);
  switch (c.op) {
    case MpiOp::kAllReduce:
      return MPI_Iallreduce(MPI_IN_PLACE, c.out, c.recv_count, type, op, comm, request);
    case MpiOp::kReduce:
      return MPI_Ireduce(or_in_place(c.in), c.out, c.send_count, type, op, c.peer, comm, request);
    default:
      return MPI_Ireduce_scatter(c.in, c.out, c.recv_counts, type, op, comm, request);
  }
}

int start_transfer(const MpiCall& c, MPI_Comm comm, MPI_Request* request) {
  const MPI_Datatype type = bits_of(c.dtype);
  switch (c.op) {
    case MpiOp::kSend:
      return MPI_Isend(c.in, c.send_count, type, c.peer, c.tag, comm, request);
    case MpiOp::kRecv:
      return MPI_Irecv(c.out, c.recv_count, type, c.peer, c.tag, comm, request);
    case MpiOp::kAllGather:
      return MPI_Iallgather(c.in, c.send_count, type, c.out, c.send_count, type, comm, request);
    case MpiOp::kAllGatherV:
      return MPI_Iallgatherv(MPI_IN_PLACE, 0, type, c.out, c.recv_counts, c.recv_offsets, type, comm,
                             request);
    case MpiOp::kAllToAllV:
      return MPI_Ialltoallv(c.in, c.send_counts, c.send_offsets, type, c.out, c.recv_counts, c.recv_offsets,
                            type, comm, request);
    case MpiOp::kGather:
      return MPI_Igather(or_in_place(c.in), c.send_count, type, c.out, c.send_count, type, c.peer, comm,
                         request);
    default:
      return MPI_Ibcast(c.out, c.recv_count, type, c.peer, comm, request);
  }
}

MpiError start(const MpiCall& call, MpiHandle& request) {
  const auto comm = from_handle<MPI_Comm>(call.comm);
  MPI_Request pending = MPI_REQUEST_NULL;
  const bool reduces =
      call.op == MpiOp::kAllReduce || call.op == MpiOp::kReduce || call.op == MpiOp::kReduceScatter;
  RETURN_IF_ERROR(reduces ? start_reduction(call, comm, &pending) : start_transfer(call, comm, &pending));
  request = to_handle(pending);
  return nullptr;
}

MpiError test(MpiHandle& request, bool& done) {
  auto pending = from_handle<MPI_Request>(request);
  int flag = 0;
  MPI_Status status;
  RETURN_IF_ERROR(MPI_Test(&pending, &flag, &status));
  request = to_handle(pending);
  done = flag != 0;
  return nullptr;
}

constexpr MpiPlugin kPlugin = {FURROW_VERSION, &init,      &finalize, &duplicate_world,
                               &create_group,  &free_comm, &start,    &test};

}  // namespace
}  // namespace furrow::comm

const furrow::comm::MpiPlugin* furrow_mpi_plugin() { return &furrow::comm::kPlugin; }
