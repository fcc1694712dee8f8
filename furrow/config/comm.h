// [comm]: how ranks find each other and talk.  Without effect in a world of one.
#pragma once

#include <cstdint>
#include <string>

#include "furrow/config/field.h"

namespace furrow::config {

struct Comm {
  int64_t init_timeout_seconds = 300;
  int64_t train_timeout_seconds = 100;
  std::string backend = "native";
  std::string transport = "auto";
  std::string algorithm = "auto";
  std::string throttle;
  std::string interface;
  int64_t connections = 2;

  template <class V>
  static void fields(V& v) {
    v("init_timeout_seconds", &Comm::init_timeout_seconds,
      {.min = 1, .max = 1e6, .doc = "How long ranks wait for each other at the start."});
    v("train_timeout_seconds", &Comm::train_timeout_seconds,
      {.min = 1,
       .max = 1e6,
       .doc =
           "How long one operation may take, and how long a rank may be silent (stopped, or cut off) before "
           "all end. A rank that dies is noticed at once."});
    v("backend", &Comm::backend,
      {.effect = Effect::kLayout,
       .choices = "native|mpi|nccl",
       .doc = "What carries out the operations between ranks, with the same bits. native: furrow itself. "
              "mpi: the MPI that started the ranks (mpirun, srun --mpi); the keys below then serve the "
              "ranks' meeting only. nccl: memory of GPUs over NCCL, memory of the host as native; for "
              "training.device = cuda."});
    v("transport", &Comm::transport,
      {.effect = Effect::kLayout,
       .choices = "auto|shm|tcp",
       .doc =
           "auto: shared memory between ranks of one host, TCP between hosts. shm: refuse other hosts. tcp: "
           "TCP between all ranks."});
    v("algorithm", &Comm::algorithm,
      {.effect = Effect::kLayout,
       .doc =
           "auto: by size, from the measured table. A name (direct, ring, ...): that algorithm wherever it "
           "fits."});
    v("throttle", &Comm::throttle,
      {.doc = "Emulates a slower network for experiments: rate, delay or both of each rank's link, such as "
              "\"100Mbit,2ms\". All traffic then takes TCP. Empty: none."});
    v("interface", &Comm::interface,
      {.doc =
           "Network interface that peers reach this rank at, such as \"eth0\", or several names with commas "
           "between them where hosts call theirs differently, \"eth0,ib0\": the first that a host has. "
           "Empty: "
           "the one on the route to rank 0."});
    v("connections", &Comm::connections,
      {.min = 1,
       .max = 64,
       .doc = "TCP connections for data between two ranks; large messages use all of them."});
  }
  friend bool operator==(const Comm&, const Comm&) = default;
};

}  // namespace furrow::config
