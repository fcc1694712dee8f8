#include <gtest/gtest.h>

#include "apps/furrow/commands.h"
#include "furrow/base/error.h"
#include "furrow/config/config.h"

namespace furrow::app {
namespace {

std::string message_of(const Command& command, std::vector<std::string> words) {
  try {
    parse_arguments(command, std::move(words));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.message();
  }
  return "";
}

TEST(Arguments, SortsWordsOptionsAndOverrides) {
  const Arguments arguments = parse_arguments(
      kEvalCommand, {"--data.shuffle=false", "runs/a", "--split", "test", "--debug.seed", "3", "--json"});
  EXPECT_EQ(arguments.positional, std::vector<std::string>{"runs/a"});
  EXPECT_EQ(arguments.get("--split", ""), "test");
  EXPECT_TRUE(arguments.has("--json"));
  const config::Config config = config::parse("[training]\nsteps = 1\n", "test", arguments.overrides);
  EXPECT_FALSE(config.data.shuffle);
  EXPECT_EQ(config.debug.seed, 3);
  EXPECT_EQ(parse_arguments(kEvalCommand, {"a", "--split=validation"}).get("--split", ""), "validation");
  EXPECT_EQ(parse_arguments(kEvalCommand, {"a"}).get("--split", "other"), "other");
}

TEST(Arguments, UnknownOptionNamesTheNearest) {
  EXPECT_NE(message_of(kTrainCommand, {"a", "--resum"}).find("did you mean '--resume'"), std::string::npos);
}

TEST(Arguments, AnOptionThatIsAKeyIsToldItsSection) {
  EXPECT_NE(message_of(kTrainCommand, {"a", "--steps", "5"}).find("configuration has --training.steps"),
            std::string::npos);
  EXPECT_NE(message_of(kPlanCommand, {"a", "--name=gpt"}).find("has --model.name, --optimizer.name"),
            std::string::npos);
  EXPECT_EQ(message_of(kRunsCommand, {"--steps", "5"}).find("training.steps"), std::string::npos)
      << "it takes none";
}

TEST(Arguments, WrongUseSaysHow) {
  EXPECT_NE(message_of(kEvalCommand, {}).find("usage: furrow eval RUN"), std::string::npos);
  EXPECT_NE(message_of(kEvalCommand, {"a", "b"}).find("one word too many: 'b'"), std::string::npos);
  EXPECT_NE(message_of(kEvalCommand, {"a", "--split"}).find("--split needs a value"), std::string::npos);
  EXPECT_NE(message_of(kEvalCommand, {"a", "--split", "tset"}).find("did you mean 'test'"),
            std::string::npos);
  EXPECT_NE(message_of(kEvalCommand, {"a", "--json=1"}).find("takes no value"), std::string::npos);
  EXPECT_NE(message_of(kRunsCommand, {"--debug.seed", "3"}).find("--debug.seed"), std::string::npos);
}

TEST(Commands, EveryRowIsFoundAndExplained) {
  for (const Command* command : commands()) {
    EXPECT_EQ(&find_command(command->name), command);
    EXPECT_FALSE(command->summary.empty()) << command->name;
    EXPECT_FALSE(command->description.empty()) << command->name;
    EXPECT_NE(command->run, nullptr) << command->name;
  }
  EXPECT_THROW(find_command("trian"), Error);
}

}  // namespace
}  // namespace furrow::app
