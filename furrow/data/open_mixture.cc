// The "mixture" kind: the sets that [data] mixture lists, each with a share of every epoch.
#include "furrow/data/open_mixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/data/lazy_source.h"
#include "furrow/data/mixture.h"
#include "furrow/data/open_text.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/source_kinds.h"

namespace furrow::data {
namespace {

// Between what Dataset::shared says of one set and of the next.
constexpr char kBetweenSets = '\x1e';  // ASCII's record separator

struct Set {
  std::string name;
  double weight = 0;
  DatasetOptions options;
};

[[noreturn]] void invalid(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, "[data] mixture: " + message);
}

double parse_weight(const std::string& entry, const std::string& text) {
  double weight = 0;
  if (parse_double(text, weight) && std::isfinite(weight) && weight > 0) return weight;
  invalid(fmt::format("'{}': weight {} is no number above 0", entry, text));
}

std::string checked_kind(const std::string& entry, const std::string& kind) {
  std::vector<std::string> known;
  for (const SourceKind& row : source_kinds()) {
    if (row.name == "mixture") continue;
    if (row.name == kind) return kind;
    known.emplace_back(row.name);
  }
  invalid(fmt::format("'{}': {}", entry, unknown_name_message("kind", kind, known)));
}

Set set_of(const DatasetOptions& options, const std::string& text) {
  const MixtureEntry entry = parse_mixture_entry(text);
  Set set{entry.name, entry.weight, options};
  set.options.kind = entry.kind;
  set.options.path = options.path / entry.path;  // an absolute one stays what it is
  set.options.mixture = {};
  set.options.text_files = {};
  set.options.readers = 1;  // the mixture has them
  set.options.binary_targets = false;
  return set;
}

std::vector<Set> parse_sets(const DatasetOptions& options) {
  std::vector<Set> sets;
  for (const std::string& entry : options.mixture) {
    sets.push_back(set_of(options, entry));
    const auto same = [&](const Set& other) { return other.name == sets.back().name; };
    if (std::count_if(sets.begin(), sets.end(), same) > 1)
      invalid(fmt::format("two sets are called '{}'", sets.back().name));
  }
  if (sets.empty()) invalid("no set is listed: write one or more \"name: kind weight=NUMBER path=PATH\"");
  return sets;
}

// Packs count together against the budget: true when all are streamed.
bool share_budget(std::vector<Set>& sets, uint64_t budget) {
  uint64_t bytes = 0;
  for (const Set& set : sets) {
    if (set.options.kind == "pack") bytes += pack_bytes(set.options);
  }
  const bool streamed = budget > 0 && bytes > budget;
  for (Set& set : sets) set.options.memory_budget = streamed ? 1 : 0;
  return streamed;
}

// Where the rows of each set can be mapped, as an opening was told.
void tell_shared(std::vector<Set>& sets, const std::string& shared) {
  const std::vector<std::string> places = split(shared, kBetweenSets);
  for (size_t i = 0; i < sets.size(); ++i)
    sets[i].options.opening.shared = places.size() == sets.size() ? places[i] : "";
}

// The same of those that were opened; empty: nowhere.
std::string shared_of(const std::vector<Dataset>& opened) {
  std::vector<std::string> places;
  for (const Dataset& set : opened) places.push_back(set.shared);
  const bool nowhere = std::ranges::all_of(places, &std::string::empty);
  return nowhere ? "" : furrow::join(places, std::string(1, kBetweenSets));
}

// Of image files, which are decoded as they are read?
bool decodes(const Set& set) {
  return set.options.kind == "folder" || (set.options.kind == "pack" && pack_decodes(set.options));
}

// Each set opened with the values of one: what was fitted earlier, else the alphabet of all texts, else those
// of the first pack, else those of the first set.
std::vector<Dataset> open_sets(const std::vector<Set>& sets, const Preprocessing* preprocessing) {
  std::vector<Dataset> opened(sets.size());
  Preprocessing common;
  const auto open = [&](size_t i) {
    try {
      opened[i] = open_dataset(sets[i].options, preprocessing);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("set '{}' of [data] mixture", sets[i].name));
    }
  };
  size_t leader = 0;
  const auto is_text = [](const Set& set) { return set.options.kind == "text"; };
  if (preprocessing == nullptr && std::all_of(sets.begin(), sets.end(), is_text)) {
    std::vector<DatasetOptions> texts;
    for (const Set& set : sets) texts.push_back(set.options);
    common = fit_texts(texts);
    preprocessing = &common;
  }
  for (size_t i = sets.size(); i-- > 0;) {
    if (sets[i].options.kind == "pack") leader = i;
  }
  open(leader);
  if (preprocessing == nullptr) {
    common = opened[leader].preprocessing;
    preprocessing = &common;
  }
  for (size_t i = 0; i < sets.size(); ++i) {
    if (i != leader) open(i);
  }
  return opened;
}

std::string samples_text(const Source& source) {
  std::string text;
  for (const Field& field : source.fields())
    text += fmt::format("{} {} {}, ", field.name, to_string(field.dtype), to_string(field.shape));
  return text + fmt::format("{} classes", source.classes());
}

void check_same_samples(const std::vector<OpenedSet>& sets) {
  const Source& first = *sets[0].splits.train;
  for (const OpenedSet& set : sets) {
    if (!set.splits.sets.empty()) {
      invalid(fmt::format("'{}' is a mixture itself: list its sets, or packs of them", set.name));
    }
    const Source& source = *set.splits.train;
    if (source.fields() == first.fields() && source.classes() == first.classes()) continue;
    invalid(fmt::format("'{}' has samples of {}, but '{}' of {}: mix sets of one shape and vocabulary",
                        set.name, samples_text(source), sets[0].name, samples_text(first)));
  }
}

std::unique_ptr<Source> mix_training(std::vector<OpenedSet>& sets, const DatasetOptions& options) {
  int64_t samples = 0;
  std::vector<double> weights;
  for (const OpenedSet& set : sets) {
    samples += set.splits.train->size();
    weights.push_back(set.weight);
  }
  const std::vector<int64_t> shares = shares_of(weights, samples);
  std::vector<MixtureSource::Part> parts;
  for (size_t i = 0; i < sets.size(); ++i) {
    if (shares[i] == 0) {
      invalid(fmt::format("weight {} of '{}' is less than one sample of the {} of an epoch: raise it",
                          format_double(sets[i].weight), sets[i].name, samples));
    }
    parts.push_back({sets[i].name, std::move(sets[i].splits.train), shares[i]});
  }
  return std::make_unique<MixtureSource>(std::move(parts), options.seed, options.shuffle);
}

// The splits of that kind, one after another, opened at first use; null when no set has one.
std::unique_ptr<Source> join(std::vector<std::shared_ptr<Source>> sources) {
  std::erase(sources, nullptr);
  if (sources.empty()) return nullptr;
  const std::vector<Field> fields = sources[0]->fields();
  const int64_t classes = sources[0]->classes();
  return std::make_unique<LazySource>(fields, classes, [sources = std::move(sources)] {
    std::vector<const Source*> all;
    for (const auto& source : sources) all.push_back(source.get());
    return std::make_unique<JoinedSource>(std::move(all));
  });
}

}  // namespace

MixtureEntry parse_mixture_entry(const std::string& text) {
  const auto malformed = [&text] {
    invalid(fmt::format("'{}': write \"name: kind weight=NUMBER path=PATH\"", text));
  };
  const size_t colon = text.find(':'), path = text.find(" path=");
  if (colon == std::string::npos || path == std::string::npos || path < colon) malformed();
  MixtureEntry entry;
  entry.name = trim(std::string_view(text).substr(0, colon));
  entry.path = trim(std::string_view(text).substr(path + 6));
  std::vector<std::string> words;
  for (const std::string& word : split(std::string_view(text).substr(colon + 1, path - colon - 1), ' ')) {
    if (!word.empty()) words.push_back(word);
  }
  if (entry.name.empty() || entry.path.empty() || words.size() != 2 || !words[1].starts_with("weight="))
    malformed();
  entry.kind = checked_kind(text, words[0]);
  entry.weight = parse_weight(text, words[1].substr(7));
  return entry;
}

Dataset mix(std::vector<OpenedSet> sets, const DatasetOptions& options) {
  check_same_samples(sets);
  Dataset dataset;
  dataset.preprocessing = sets[0].splits.preprocessing;
  std::vector<std::shared_ptr<Source>> validation, test;
  for (OpenedSet& set : sets) {
    Dataset& splits = set.splits;
    dataset.sets.push_back(
        {set.name, set.weight, splits.train.get(), splits.validation.get(), splits.test.get()});
    validation.push_back(std::move(splits.validation));
    test.push_back(std::move(splits.test));
  }
  dataset.train = mix_training(sets, options);
  dataset.validation = join(std::move(validation));
  dataset.test = join(std::move(test));
  return dataset;
}

Dataset open_mixture(const DatasetOptions& options, const Preprocessing* preprocessing) {
  std::vector<Set> sets = parse_sets(options);
  const bool streamed = share_budget(sets, options.memory_budget);
  tell_shared(sets, options.opening.shared);
  std::vector<Dataset> opened = open_sets(sets, preprocessing);
  const std::string shared = shared_of(opened);
  std::vector<OpenedSet> named;
  for (size_t i = 0; i < sets.size(); ++i)
    named.push_back({sets[i].name, sets[i].weight, std::move(opened[i])});
  Dataset dataset = mix(std::move(named), options);
  dataset.shared = shared;
  const bool decoded = std::ranges::any_of(sets, &decodes);
  if (const int readers = readers_of(options, streamed, decoded); readers > 1) {
    dataset.train =
        std::make_unique<ParallelSource>(std::move(dataset.train), std::make_shared<ReaderPool>(readers),
                                         decoded ? RowCost::kWork : RowCost::kWaits);
  }
  return dataset;
}

DataInfo probe_mixture(const DatasetOptions& options) {
  const Dataset dataset = open_mixture(options, nullptr);
  return {dataset.train->fields(), dataset.train->classes(), dataset.train->size()};
}

}  // namespace furrow::data
