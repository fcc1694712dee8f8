// Who am I?  The rank, the size of the world and where rank 0 is met, from what a launcher put into the
// environment.
//
// | launcher    | recognised by            | rank, size                                        | where rank 0
// is              |
// |-------------|--------------------------|---------------------------------------------------|------------------------------|
// | torchrun    | TORCHELASTIC_RUN_ID      | RANK, WORLD_SIZE                                  | MASTER_ADDR
// | | environment | RANK (also furrow's own) | RANK, WORLD_SIZE                                  |
// MASTER_ADDR                  | | openmpi     | OMPI_COMM_WORLD_RANK     | OMPI_COMM_WORLD_RANK,
// OMPI_COMM_WORLD_SIZE        | MASTER_ADDR, or one host     | | slurm       | SLURM_PROCID             |
// SLURM_PROCID, SLURM_STEP_NUM_TASKS / SLURM_NTASKS | MASTER_ADDR, or first host   | | pmi         | PMI_RANK
// | PMI_RANK, PMI_SIZE                                | MASTER_ADDR, or one host     | | kubernetes  |
// JOB_COMPLETION_INDEX     | JOB_COMPLETION_INDEX, WORLD_SIZE                  | MASTER_ADDR |
//
// The first row that is recognised counts: torchrun below srun means torchrun's ranks.  No row: a world of
// one. Functions are pure and thread safe, except process_environment.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::comm {

using Environment = std::map<std::string, std::string, std::less<>>;

// A copy of this process's environment.  Thread safe as long as nobody changes it.
Environment process_environment();

struct World {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this host; -1: the launcher does not say, the rendezvous counts
  int local_size = 1;  // -1: likewise
  int node = 0;        // number of this host; -1: likewise
  std::string launcher = "none";
  std::string master_address;  // of rank 0; empty in a world of one
  int master_port = 0;         // first candidate of rendezvous_ports
  std::string job_id;          // what all ranks of the job, and no other job, have in common; may be empty
  std::string token;           // FURROW_JOB_TOKEN; else made of job id, address and port (comm/secret.h)
  bool token_given = true;     // false: made up so, which whoever knows the job can do too
};

// Error{invalid_argument} on numbers that are none, half-set environments, ranks beyond the size, and
// launchers that contradict each other; the message names the variables and what to set.
World discover_world(const Environment& environment);

// The ports at which rank 0 may be met, in the order in which it tries to listen; the others walk the same
// list until somebody proves to hold the job's token, so a port that a stranger has taken costs nothing but
// the try.  Under torchrun the list starts after MASTER_PORT, where the agent's own store listens.
std::vector<int> rendezvous_ports(const World& world);

// "gpu[003-005,011],login1" -> "gpu003"; brackets may stand anywhere in a name.  Error{invalid_argument} on
// an unclosed bracket or an empty list.
std::string first_slurm_host(std::string_view node_list);

}  // namespace furrow::comm
