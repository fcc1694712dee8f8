// furrow models: models of other programs in, ours out.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "apps/furrow/commands.h"
#include "apps/furrow/foreign_models.h"
#include "apps/furrow/foreign_tokenizers.h"
#include "furrow/base/error.h"
#include "furrow/base/file.h"
#include "furrow/base/log.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"

namespace furrow::app {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kNoTokenizer = "none";

// --out, or `otherwise`.
std::string out_of(const Arguments& arguments, const fs::path& otherwise) {
  const bool given = arguments.has("--out");
  const std::string out = given ? arguments.get("--out", "") : otherwise.string();
  if (out.empty()) throw Error(ErrorCode::kInvalidArgument, "where to write is missing: give --out DIR");
  if (path_exists(out)) {
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{} is there already: {}", out,
                            given ? "choose another --out" : "remove it, or choose another with --out DIR"));
  }
  return out;
}

// The last name of a path, without its ending.
fs::path name_of(const std::string& path) {
  return fs::path(path + "/.").lexically_normal().parent_path().stem();
}

// What to do about a model without one; `place` may be a folder.
std::string tokenizer_advice(const std::string& place) {
  const std::string unread = place.empty() ? "" : unread_tokenizer(place);
  if (unread.empty()) return "no tokenizer comes with the model: --tokenizer FILE names one";
  return fmt::format(
      "the model's tokenizer, {}, is of a form that is not read: --tokenizer FILE names its "
      "tokenizer.json or merges.txt (byte pairs) or tokenizer.model (SentencePiece)",
      unread);
}

// The model goes in without one, too.
preprocess::State tokenizer_of(const std::string& place, const models::ForeignModel& model) {
  if (place.empty() || place == kNoTokenizer) return {};
  try {
    return read_tokenizer(place, model.vocabulary);
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("{}; --tokenizer none imports the model without one", error.what()));
  }
}

// `tokenizer`: a file, a folder that may hold one, "none", or empty.
int import_model(const std::string& what, const models::ForeignModel& model, const std::string& tokenizer,
                 const std::string& out) {
  const preprocess::State state = tokenizer_of(tokenizer, model);
  fs::create_directories(parent_directory(out));
  write_as_artefact(model, std::filesystem::path(what).filename(), out, state);
  if (state.empty() && tokenizer != kNoTokenizer) log_info(tokenizer_advice(tokenizer));
  int64_t parameters = 0;
  for (const models::NamedParameter& parameter : model.parameters)
    parameters += num_elements(parameter.shape);
  fmt::print("{}: {}, {} parameters, vocabulary {}, context {}\n", out, model.model.name,
             format_count(parameters), model.vocabulary, model.context);
  return 0;
}

// An option of the other direction would do nothing.
void refuse(const Arguments& arguments, std::string_view option, const char* direction) {
  if (!arguments.has(option)) return;
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is for `furrow models {}`", option, direction));
}

int import_hugging_face(const Arguments& arguments) {
  refuse(arguments, "--dtype", "export");
  const std::string &what = arguments.positional[2], out = out_of(arguments, "models" / name_of(what));
  return import_model(what, read_hugging_face(what), arguments.get("--tokenizer", what), out);
}

int import_llama2c(const Arguments& arguments) {
  refuse(arguments, "--dtype", "export");
  const std::string &what = arguments.positional[2], out = out_of(arguments, "models" / name_of(what));
  return import_model(what, read_llama2c(what), arguments.get("--tokenizer", ""), out);
}

int export_hugging_face(const Arguments& arguments) {
  refuse(arguments, "--tokenizer", "import");
  const std::string& what = arguments.positional[2];
  const bool is_model = path_exists(what + "/model.toml");
  const std::string out = out_of(arguments, is_model ? fs::path() : fs::path(what) / "hf");
  std::optional<DType> dtype;
  if (arguments.has("--dtype")) dtype = parse_dtype(arguments.get("--dtype", ""));
  if (!write_hugging_face(is_model ? what : what + "/model", out, dtype))
    log_info("its tokenizer has no form among Hugging Face's: the folder holds the model alone");
  fmt::print("{}\n", out);
  return 0;
}

struct Verb {
  std::string_view name;
  int (*run)(const Arguments& arguments);
};
constexpr Verb kVerbs[] = {
    {"import hf", &import_hugging_face},
    {"import llama2c", &import_llama2c},
    {"export hf", &export_hugging_face},
};

int run_models(const Arguments& arguments) {
  const std::string wanted = arguments.positional[0] + " " + arguments.positional[1];
  std::vector<std::string> known;
  for (const Verb& verb : kVerbs) {
    if (verb.name == wanted) return verb.run(arguments);
    known.emplace_back(verb.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("form of `furrow models`", wanted, known));
}

constexpr Option kOptions[] = {
    {"--out", "DIR",
     "the folder to write, which must not be there (default: models/NAME; export of a run: RUN/hf)"},
    {"--dtype", "float32|float16|bfloat16",
     "export: type of the parameters (default: that of an imported model's file, of a run's float32)"},
    {"--tokenizer", "FILE",
     "import: tokenizer.json, merges.txt, tokenizer.model, a tokenizer.bin of llama2.c, or none"},
};

}  // namespace

const Command kModelsCommand{
    .name = "models",
    .arguments = "import|export FORMAT WHAT",
    .min_positional = 3,
    .max_positional = 3,
    .summary = "bring models of other programs in, and ours out",
    .description =
        "  furrow models import hf DIR [--out MODEL]      Hugging Face's GPT-2, Llama or Qwen2: "
        "config.json, safetensors\n"
        "  furrow models import llama2c FILE              a checkpoint of llama2.c, version 0\n"
        "  furrow models export hf RUN [--out DIR]        the best model of a run, into RUN/hf or DIR\n"
        "  furrow models export hf MODEL --out DIR        a model folder\n"
        "\n"
        "MODEL is a folder with model.toml and model.safetensors, as training leaves it in RUN/model; a run "
        "starts\n"
        "from it with --checkpoint.initial_load_path MODEL, `furrow eval MODEL --text FILE` measures it. The "
        "tokenizer\n"
        "(tokenizer.json, merges.txt, tokenizer.model) comes along. Parameters go in and out bit for bit, "
        "those of\n"
        "16 bits too.\n",
    .options = kOptions,
    .run = run_models,
};

}  // namespace furrow::app
