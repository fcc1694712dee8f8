// What the launcher gives its ranks: who they are, where they meet, their cores.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace furrow::app {

std::vector<int> usable_cores();  // of this process, ascending; empty where the system does not say

// On 127.0.0.1; free just now, and small enough for comm::rendezvous_ports to try some after it.
int free_loopback_port();

std::string random_token();  // 32 hexadecimal digits

// torchrun's, of rank `rank` of `ranks` on this machine, but for the port.
std::vector<std::pair<std::string, std::string>> rank_variables(int rank, int ranks);

}  // namespace furrow::app
