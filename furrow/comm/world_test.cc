// Environments as launchers write them, and every way in which they can be half set or contradict each other.
#include "furrow/comm/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

using ::testing::HasSubstr;

std::string refusal(const Environment& environment) {
  try {
    discover_world(environment);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

// Taken from torchrun 2.13, --nproc-per-node 2.
Environment torchrun() {
  return {{"LOCAL_RANK", "1"},       {"RANK", "3"},
          {"GROUP_RANK", "1"},       {"ROLE_RANK", "3"},
          {"LOCAL_WORLD_SIZE", "2"}, {"WORLD_SIZE", "4"},
          {"GROUP_WORLD_SIZE", "2"}, {"MASTER_ADDR", "10.0.0.1"},
          {"MASTER_PORT", "29500"},  {"TORCHELASTIC_RESTART_COUNT", "0"},
          {"OMP_NUM_THREADS", "1"},  {"TORCHELASTIC_MAX_RESTARTS", "0"},
          {"ROLE_NAME", "default"},  {"TORCHELASTIC_RUN_ID", "job7"}};
}

Environment slurm() {
  return {{"SLURM_PROCID", "5"},
          {"SLURM_NTASKS", "6"},
          {"SLURM_LOCALID", "1"},
          {"SLURM_NODEID", "2"},
          {"SLURM_JOB_ID", "4711"},
          {"SLURM_STEP_ID", "0"},
          {"SLURM_TASKS_PER_NODE", "2(x3)"},
          {"SLURM_JOB_NODELIST", "gpu[003-004,011]"}};
}

// Taken from Open MPI 4.1's mpirun -n 2.
Environment openmpi() {
  return {{"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
          {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
          {"OMPI_COMM_WORLD_NODE_RANK", "1"},
          {"PMIX_NAMESPACE", "3735158785"},
          {"PMIX_RANK", "1"},
          {"OMPI_UNIVERSE_SIZE", "2"}};
}

TEST(World, WithoutLauncherIsAlone) {
  const World world = discover_world({{"PATH", "/bin"}, {"MASTER_ADDR", "leftover"}});
  EXPECT_EQ(world.size, 1);
  EXPECT_EQ(world.rank, 0);
  EXPECT_EQ(world.launcher, "none");
}

TEST(World, Torchrun) {
  const World world = discover_world(torchrun());
  EXPECT_EQ(world.launcher, "torchrun");
  EXPECT_EQ(world.rank, 3);
  EXPECT_EQ(world.size, 4);
  EXPECT_EQ(world.local_rank, 1);
  EXPECT_EQ(world.local_size, 2);
  EXPECT_EQ(world.node, 1);
  EXPECT_EQ(world.master_address, "10.0.0.1");
  EXPECT_EQ(rendezvous_ports(world).front(), 29501);  // 29500 is the agent's
}

TEST(World, ARestartIsAnotherJob) {
  Environment again = torchrun();
  again["TORCHELASTIC_RESTART_COUNT"] = "1";
  EXPECT_NE(discover_world(torchrun()).token, discover_world(again).token);
}

TEST(World, TorchrunBelowSlurmCounts) {
  Environment both = torchrun();
  both.merge(slurm());
  EXPECT_EQ(discover_world(both).rank, 3);
}

TEST(World, PlainEnvironment) {
  const World world = discover_world({{"RANK", "1"},
                                      {"WORLD_SIZE", "2"},
                                      {"MASTER_ADDR", "::1"},
                                      {"MASTER_PORT", "4000"},
                                      {"FURROW_JOB_TOKEN", "s"}});
  EXPECT_EQ(world.launcher, "environment");
  EXPECT_EQ(world.local_rank, -1);
  EXPECT_EQ(world.token, "s");
  EXPECT_TRUE(world.token_given);
  EXPECT_FALSE(discover_world(torchrun()).token_given);
  EXPECT_EQ(rendezvous_ports(world).front(), 4000);
}

TEST(World, PlainEnvironmentOnOneHostNeedsNoAddress) {
  const World world =
      discover_world({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}});
  EXPECT_EQ(world.master_address, "127.0.0.1");
  EXPECT_EQ(world.master_port, 29500);
}

TEST(World, Slurm) {
  const World world = discover_world(slurm());
  EXPECT_EQ(world.launcher, "slurm");
  EXPECT_EQ(world.rank, 5);
  EXPECT_EQ(world.size, 6);
  EXPECT_EQ(world.local_rank, 1);
  EXPECT_EQ(world.local_size, 2);
  EXPECT_EQ(world.node, 2);
  EXPECT_EQ(world.master_address, "gpu003");
  EXPECT_EQ(world.job_id, "4711/0");
  EXPECT_GE(world.master_port, 20000);
  EXPECT_LT(world.master_port, 32000);
}

TEST(World, SlurmTasksOfUnevenNodes) {
  Environment environment = slurm();
  environment["SLURM_TASKS_PER_NODE"] = "3,2,1";
  environment["SLURM_LOCALID"] = "0";
  EXPECT_EQ(discover_world(environment).local_size, 1);
}

TEST(World, SlurmWithoutSrunIsRefused) {
  Environment environment = slurm();
  environment.erase("SLURM_STEP_ID");
  EXPECT_THAT(refusal(environment), HasSubstr("start it with srun"));
  environment["SLURM_NTASKS"] = "1";
  environment["SLURM_PROCID"] = "0";
  EXPECT_EQ(discover_world(environment).size, 1);
}

TEST(World, FirstSlurmHost) {
  EXPECT_EQ(first_slurm_host("node7"), "node7");
  EXPECT_EQ(first_slurm_host("a,b"), "a");
  EXPECT_EQ(first_slurm_host("gpu[003-005,011],login1"), "gpu003");
  EXPECT_EQ(first_slurm_host("r[1,3]n[08-09].site"), "r1n08.site");
  EXPECT_THROW(first_slurm_host("gpu[003"), Error);
  EXPECT_THROW(first_slurm_host(""), Error);
}

TEST(World, OpenMpi) {
  const World world = discover_world(openmpi());
  EXPECT_EQ(world.launcher, "openmpi");
  EXPECT_EQ(world.rank, 1);
  EXPECT_EQ(world.master_address, "127.0.0.1");
  EXPECT_EQ(world.node, -1);
  Environment other = openmpi();
  other["PMIX_NAMESPACE"] = "3735158786";
  EXPECT_NE(discover_world(other).master_port, world.master_port);
}

TEST(World, OpenMpiOnSeveralHostsNeedsAnAddress) {
  Environment environment = openmpi();
  environment["OMPI_COMM_WORLD_SIZE"] = "4";
  EXPECT_THAT(refusal(environment), HasSubstr("mpirun -x MASTER_ADDR="));
  environment["MASTER_ADDR"] = "n1";
  EXPECT_EQ(discover_world(environment).master_address, "n1");
}

TEST(World, Pmi) {
  const World world = discover_world(
      {{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "0"}, {"MPI_LOCALNRANKS", "2"}});
  EXPECT_EQ(world.launcher, "pmi");
  EXPECT_EQ(world.size, 2);
}

TEST(World, Kubernetes) {
  const World world =
      discover_world({{"JOB_COMPLETION_INDEX", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "job-0.job"}});
  EXPECT_EQ(world.launcher, "kubernetes");
  EXPECT_EQ(world.rank, 2);
  EXPECT_EQ(world.size, 3);
  EXPECT_EQ(discover_world({{"JOB_COMPLETION_INDEX", "2"}, {"WORLD_SIZE", "1"}}).rank, 0);
}

TEST(World, HalfSetEnvironments) {
  EXPECT_THAT(refusal({{"RANK", "1"}}), HasSubstr("RANK is set in the environment but WORLD_SIZE is not"));
  EXPECT_THAT(refusal({{"WORLD_SIZE", "2"}}),
              HasSubstr("WORLD_SIZE is set in the environment but RANK is not"));
  EXPECT_THAT(refusal({{"LOCAL_RANK", "0"}}),
              HasSubstr("LOCAL_RANK is set in the environment but RANK is not"));
  EXPECT_THAT(refusal({{"JOB_COMPLETION_INDEX", "1"}}), HasSubstr("or to 1 when every pod trains alone"));
  EXPECT_THAT(refusal({{"RANK", "1"}, {"WORLD_SIZE", "2"}}), HasSubstr("MASTER_ADDR is not set"));
  EXPECT_THAT(refusal({{"OMPI_COMM_WORLD_RANK", "0"}}), HasSubstr("OMPI_COMM_WORLD_SIZE is not"));
}

TEST(World, NumbersThatDoNotFit) {
  EXPECT_THAT(refusal({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK=2 does not fit WORLD_SIZE=2"));
  EXPECT_THAT(refusal({{"RANK", "x"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK=x, which is not a number"));
  EXPECT_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), HasSubstr("at least one rank"));
  Environment environment = torchrun();
  environment["LOCAL_WORLD_SIZE"] = "1";
  EXPECT_THAT(refusal(environment), HasSubstr("LOCAL_RANK=1 does not fit LOCAL_WORLD_SIZE=1"));
  environment["LOCAL_WORLD_SIZE"] = "5";
  EXPECT_THAT(refusal(environment), HasSubstr("LOCAL_WORLD_SIZE=5 does not fit WORLD_SIZE=4"));
  environment = torchrun();
  environment["MASTER_PORT"] = "65535";  // the agent's, and no port is left after it
  EXPECT_THAT(refusal(environment), HasSubstr("MASTER_PORT=65535 is no port: choose one from 1 to 65534"));
  environment["MASTER_PORT"] = "65530";
  EXPECT_EQ(rendezvous_ports(discover_world(environment)), (std::vector{65531, 65532, 65533, 65534, 65535}));
}

TEST(World, ContradictionsAreRefused) {
  Environment environment = openmpi();
  environment.insert({{"RANK", "0"}, {"WORLD_SIZE", "2"}});  // exported once, for both processes
  EXPECT_THAT(refusal(environment),
              HasSubstr("RANK=0 WORLD_SIZE=2, but OMPI_COMM_WORLD_RANK says rank 1 of 2"));
  environment["RANK"] = "1";
  environment["MASTER_ADDR"] = "127.0.0.1";
  EXPECT_EQ(discover_world(environment).rank, 1);
}

TEST(World, FurrowsLauncherBelowSlurm) {
  Environment environment = slurm();
  environment.insert(
      {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}, {"FURROW_JOB_TOKEN", "random"}});
  EXPECT_EQ(discover_world(environment).size, 2);
}

}  // namespace
}  // namespace furrow::comm
