#include "furrow/base/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include "furrow/base/text.h"

namespace furrow {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

double cores_of(double quota_us, double period_us) {
  return quota_us > 0 && period_us > 0 ? quota_us / period_us : 0;
}

// "max 100000", "250000 100000"
double limit_2(const std::string& folder) {
  std::istringstream words(first_line(folder + "/cpu.max"));
  double quota = 0, period = 0;
  words >> quota >> period;
  return words ? cores_of(quota, period) : 0;
}

double limit_1(const std::string& folder) {
  double quota = 0, period = 0;
  const bool both = parse_double(first_line(folder + "/cpu.cfs_quota_us"), quota) &&
                    parse_double(first_line(folder + "/cpu.cfs_period_us"), period);
  return both ? cores_of(quota, period) : 0;  // a quota of -1: none
}

// The least of a group and those above it.  A container may know its group by a path that is not there, as
// what is mounted is that group alone.
double least(const std::string& mount, std::string group, double (*limit)(const std::string&)) {
  double found = 0;
  while (true) {
    const double here = limit(mount + group);
    if (here > 0) found = found > 0 ? std::min(found, here) : here;
    if (group.empty()) return found;
    group.resize(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
  }
}

}  // namespace

double cpu_quota(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // "0::/a/b", "4:cpu,cpuacct:/a/b"
    const std::vector<std::string> parts = split(line, ':');
    if (parts.size() < 3) continue;
    const std::vector<std::string> controllers = split(parts[1], ',');
    const bool second = parts[0] == "0" && parts[1].empty();
    if (!second && std::ranges::find(controllers, "cpu") == controllers.end()) continue;
    const std::string group = parts[2] == "/" ? "" : parts[2];
    const std::string mount = root + "/sys/fs/cgroup";
    const double found =
        second ? least(mount, group, limit_2) : least(mount + "/" + parts[1], group, limit_1);
    if (found > 0) return found;
  }
  return 0;
}

}  // namespace furrow
