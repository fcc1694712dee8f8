// Where the rows of a CSV text end, so that parts of a file can be parsed side by side.  Functions are pure.
//
// As Arrow reads RFC 4180: a quote opens a quoted value only at the beginning of one; in a quoted value two
// quotes are one, delimiters and line ends are text.  A row ends with LF, CR LF or CR.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace furrow::data {

// How many bytes of `text`, which begins where a row does, are whole rows with their line ends.  A CR at the
// very end of `text` may have its LF behind it and ends no row yet.
size_t whole_rows(std::string_view text, char delimiter);

// The same for its first row alone; 0: it does not end in `text`.
size_t first_row(std::string_view text, char delimiter);

// The values of the line of names, without its line end.
std::vector<std::string> names_of_line(std::string_view line, char delimiter);

}  // namespace furrow::data
