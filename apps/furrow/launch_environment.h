// What the launcher gives its ranks: who they are, where they meet, their cores.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace furrow::app {

std::vector<int> usable_cores();  // of this process, side_by_side(); empty where the system does not say

// Those of one processor next to each other, and in it those that are threads of one physical core, as
// `folder` says (/sys/devices/system/cpu): so that a share of the list takes as little as can be from others.
std::vector<int> side_by_side(std::vector<int> cores, const std::string& folder);

// On 127.0.0.1; free just now, and small enough for comm::rendezvous_ports to try some after it.
int free_loopback_port();

std::string random_token();  // 32 hexadecimal digits

// torchrun's, of rank `rank` of `ranks` on this machine, but for the port.
std::vector<std::pair<std::string, std::string>> rank_variables(int rank, int ranks);

}  // namespace furrow::app
