// What a search found, as tables.
#pragma once

#include <string>
#include <vector>

#include "furrow/base/table.h"
#include "furrow/plan/search.h"

namespace furrow::app {

Table candidates_table(const std::vector<plan::Candidate>& candidates, const std::string& currency);
Table refused_table(const std::vector<plan::Candidate>& refused);
Table passes_table(const std::vector<plan::PassReport>& passes);

// All of it: {"cluster", "model", "candidates", "refused", "passes", "smallest_change"}.  Candidates have the
// keys that summary.json has for a run: step_time_ms, memory_bytes, wire_bytes, bubble,
// exposed_communication.
std::string search_json(const plan::SearchRequest& request, const plan::SearchResult& result);

}  // namespace furrow::app
