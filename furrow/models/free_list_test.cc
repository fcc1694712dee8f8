#include "furrow/models/free_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/config/model.h"
#include "furrow/models/architectures.h"
#include "furrow/models/kinds.h"

namespace furrow::models {
namespace {

using ::testing::HasSubstr;

const DataShape kImages{{DType::kF32, {-1, 1, 28, 28}}, 10};
const DataShape kTokens{{DType::kI64, {-1, 16}}, 27};

config::Model list(std::vector<std::string> units) {
  config::Model model;
  model.name = "blocks";
  model.units = std::move(units);
  return model;
}

std::string error_of(std::vector<std::string> units, const DataShape& data = kImages) {
  try {
    describe(list(std::move(units)), data);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

TEST(FreeList, EveryKindHasAForm) {
  std::set<std::string_view> named, forms;
  for (const Kind& kind : models::kinds()) named.insert(kind.name);
  for (const KindForm& form : kind_forms()) forms.insert(form.kind);
  EXPECT_EQ(named.erase("latent"), 1u) << "a generator's alone";
  EXPECT_EQ(named, forms);
}

TEST(FreeList, IsTheNetworkThatItSpells) {
  config::Model convnet;
  convnet.name = "convnet";
  plan::ModelSpec want = describe(convnet, kImages);
  const plan::ModelSpec got =
      describe(list({"conv1: conv_relu_pool out_channels=6 kernel=5 pool=true",
                     "conv2:  conv_relu_pool  out_channels=16 kernel=5 pool=true",
                     "fc1: linear out=120 activation=relu", "fc2: linear out=84 activation=relu",
                     "fc3: linear out=classes"}),
               kImages);
  ASSERT_EQ(got.units.size(), want.units.size());
  for (size_t i = 0; i < want.units.size(); ++i) {
    EXPECT_EQ(got.units[i].name, want.units[i].name);
    EXPECT_EQ(got.units[i].kind, want.units[i].kind);
    EXPECT_EQ(got.units[i].attributes, want.units[i].attributes) << got.units[i].name;
    EXPECT_EQ(got.units[i].output, want.units[i].output);
  }
}

TEST(FreeList, FillsInWhatFollowsFromTheData) {
  const plan::ModelSpec spec = describe(
      list({"embed: token_embedding width=16 prefix=", "h.0: transformer_block heads=2",
            "h.1: transformer_block heads=4", "r: lstm hidden=12", "out: linear flatten=false out=classes"}),
      kTokens);
  EXPECT_EQ(plan::attribute<int64_t>(spec.units[0], "vocab"), 27);
  EXPECT_EQ(plan::attribute<int64_t>(spec.units[0], "context"), 16);
  EXPECT_EQ(spec.units[0].parameters[0].name, "wte.weight");
  EXPECT_EQ(plan::attribute<int64_t>(spec.units[2], "layers"), 2);
  EXPECT_EQ(plan::attribute<int64_t>(spec.units[3], "in"), 16);
  EXPECT_EQ(spec.units[4].output.shape, (Shape{-1, 16, 27}));
}

TEST(FreeList, LearnsNothingOfNoise) {
  const std::string error = error_of({"z: latent width=8", "fc: linear out=classes"});
  EXPECT_THAT(error, HasSubstr("unit 'z: latent width=8': latent gives noise, whatever the sample is"));
  EXPECT_THAT(error, HasSubstr("leave the unit out, or use [model] name = gan"));
  EXPECT_THAT(error_of({"c: linear out=8", "z: latent width=8", "fc: linear out=classes"}),
              HasSubstr("latent gives noise"));
  EXPECT_EQ(error_of({"latent: linear out=classes"}), "no error") << "a name is no kind";
}

TEST(FreeList, MistakesNameTheUnit) {
  EXPECT_THAT(error_of({}), HasSubstr("units is empty"));
  EXPECT_THAT(error_of({"fc linear out=10"}),
              HasSubstr("unit 'fc linear out=10': write \"name: kind key=value"));
  EXPECT_THAT(error_of({"fc: linaer out=10"}), HasSubstr("did you mean 'linear'?"));
  EXPECT_THAT(error_of({"fc: linear"}), HasSubstr("unit 'fc: linear': out is missing"));
  EXPECT_THAT(error_of({"fc: linear out=ten"}), HasSubstr("out = ten is not an integer or `classes`"));
  EXPECT_THAT(error_of({"fc: linear out=10 bais=true"}), HasSubstr("did you mean 'bias'?"));
  EXPECT_THAT(error_of({"fc: linear out=10 bias=yes"}), HasSubstr("bias = yes is not true or false"));
  EXPECT_THAT(error_of({"fc: linear out=10 out=11"}), HasSubstr("out is there twice"));
  EXPECT_THAT(error_of({"fc: linear out=10 bias"}), HasSubstr("'bias' is no key=value"));
  EXPECT_THAT(error_of({"fc: linear out=10 in=@last"}), HasSubstr("in = @last is no value"));
  EXPECT_THAT(error_of({"fc: linear out=12"}),
              HasSubstr("the last unit, fc, gives [-1, 12], but the data has 10"));
  EXPECT_THAT(error_of({"fc: linear out=10", "fc: linear out=10"}), HasSubstr("two units are named fc"));
  EXPECT_THAT(error_of({"teacher: linear out=10"}), HasSubstr("give the unit another name"));
  EXPECT_EQ(error_of({"teachers: linear out=10"}), "no error");
  EXPECT_THAT(error_of({"e: embedding width=4 std=x"}, kTokens), HasSubstr("std = x is not a number"));
  EXPECT_THAT(error_of({"fc: linear out=classes"}, kTokens), HasSubstr("reads float32"));
}

}  // namespace
}  // namespace furrow::models
