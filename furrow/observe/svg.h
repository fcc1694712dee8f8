// What the writers of SVG share.
#pragma once

#include <string>
#include <string_view>

namespace furrow::observe {

std::string xml_escape(std::string_view text);

// The root element over a white ground, up to where shapes begin; "</svg>\n" ends it.
std::string svg_begin(double width, double height);

}  // namespace furrow::observe
