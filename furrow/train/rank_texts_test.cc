// What ranks tell each other: texts, errors, sums and votes.
#include "furrow/train/rank_texts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "furrow/base/error.h"
#include "furrow/train/sums.h"
#include "tests/testing/run_ranks.h"

namespace furrow::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::run_ranks;

TEST(RankTexts, EveryRankHearsTheFirst) {
  for (const std::string& text : {std::string(), std::string("runs/a"), std::string(100'000, 'x')}) {
    run_ranks(3, [&](comm::Communicator& communicator) {
      const int rank = communicator.rank();
      const auto make = [&] { return rank == 0 ? text : "never called"; };
      EXPECT_EQ(text_of_first(communicator.world(), "test", make), text);
    });
  }
}

TEST(RankTexts, EveryRankHearsAll) {
  run_ranks(3, [&](comm::Communicator& communicator) {
    const auto make = [&] { return std::string(static_cast<size_t>(communicator.rank()), 'a'); };
    EXPECT_THAT(texts_of_all(communicator.world(), "test", make), ElementsAre("", "a", "aa"));
  });
}

TEST(RankTexts, OnlyTheFirstHearsWhatIsMeantForIt) {
  for (const int ranks : {1, 3}) {
    run_ranks(ranks, [&](comm::Communicator& communicator) {
      const int rank = communicator.rank();
      const auto make = [&] { return std::string(static_cast<size_t>(1 + rank * 50'000), 'a'); };
      const std::vector<std::string> texts = texts_to_first(communicator.world(), "test", make);
      ASSERT_EQ(texts.size(), rank == 0 ? static_cast<size_t>(ranks) : 0);
      for (size_t r = 0; r < texts.size(); ++r) EXPECT_EQ(texts[r].size(), 1 + r * 50'000);
      int64_t received = 0;
      for (const comm::LedgerRow& row : communicator.ledger().rows()) {
        if (row.kind != comm::CollectiveKind::kSend) received += row.wire_bytes;
      }
      if (rank == 0) return;
      EXPECT_LT(received, 4096);  // texts_of_all brings 50,000 and more
    });
  }
}

// The same code everywhere; who did not fail says who did.
TEST(RankTexts, AnErrorIsEveryRanksError) {
  for (const int failing : {0, 2}) {
    run_ranks(3, [&](comm::Communicator& communicator) {
      const auto make = [&]() -> std::string {
        if (communicator.rank() == failing) throw Error(ErrorCode::kResourceExhausted, "disk full");
        return "fine";
      };
      const auto heard = [&](const std::function<void()>& act) {
        try {
          act();
          ADD_FAILURE() << "no error";
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
          EXPECT_THAT(error.what(), HasSubstr("disk full"));
          const bool own = communicator.rank() == failing;
          EXPECT_EQ(std::string(error.what()).starts_with("rank " + std::to_string(failing)), !own);
        }
      };
      heard([&] { texts_of_all(communicator.world(), "test", make); });
      heard([&] { texts_to_first(communicator.world(), "test", make); });
      heard([&] { wait_in_turns(communicator.world(), "test", [&] { return !make().empty(); }); });
      if (failing == 0) heard([&] { text_of_first(communicator.world(), "test", make); });
    });
  }
}

TEST(RankTexts, WhoIsNotDoneIsWaitedForInTurns) {
  run_ranks(3, [](comm::Communicator& communicator) {
    int calls = 0;
    const auto done = [&] { return ++calls > 2 * communicator.rank(); };
    wait_in_turns(communicator.world(), "test", done);
    EXPECT_EQ(calls, 5) << "the last one is done at its fifth turn";
  });
}

Sums sums_of(double loss, double square, int unit, int64_t stop) {
  Sums sums;
  sums.loss.loss.add(loss);
  sums.loss.weight.add(0.1f);
  sums.loss.count = 3;
  sums.loss.correct = 2;
  sums.squares.add(square);
  sums.non_finite_unit = unit;
  sums.stop = stop;
  sums.ready = 1;
  return sums;
}

TEST(Sums, TravelAsTheyAre) {
  constexpr double kMost = std::numeric_limits<double>::max();
  Sums many = sums_of(kMost, kMost, -1, 0);  // sums that no double holds
  for (int i = 0; i < 1000; ++i) many.add(sums_of(-kMost, kMost, -1, 0));
  for (const Sums& sums : {Sums(), many, sums_of(-1e300, 1e-320, 4, 15),
                           sums_of(std::numeric_limits<double>::infinity(), std::nan(""), 0, 0)}) {
    std::array<int64_t, Sums::kWords> words;
    sums.write(words);
    const Sums back = Sums::read(words);
    EXPECT_EQ(back.loss.loss.limbs(), sums.loss.loss.limbs());
    EXPECT_EQ(back.squares.limbs(), sums.squares.limbs());
    EXPECT_EQ(back.loss.weight.limbs(), sums.loss.weight.limbs());
    EXPECT_EQ(back.loss.count, sums.loss.count);
    EXPECT_EQ(back.loss.correct, sums.loss.correct);
    EXPECT_EQ(back.non_finite_unit, sums.non_finite_unit);
    EXPECT_EQ(back.stop, sums.stop);
    EXPECT_EQ(back.ready, sums.ready);
  }
}

TEST(Sums, ThatAreDamagedAreRefused) {
  std::array<int64_t, Sums::kWords> words;
  Sums().write(words);
  words[ExactSum::kLimbs / 2 - 1] = std::numeric_limits<int64_t>::max();  // the sign
  EXPECT_THROW(Sums::read(words), Error);
}

TEST(Sums, AddInAnyOrder) {
  const std::vector<Sums> parts = {sums_of(1e16, 1, -1, 0), sums_of(1, 1e-30, 5, 15),
                                   sums_of(-1e16, 2, 3, 2)};
  Sums forth, back;
  for (size_t i = 0; i < parts.size(); ++i) {
    forth.add(parts[i]);
    back.add(parts[parts.size() - 1 - i]);
  }
  EXPECT_EQ(forth.loss.loss.value(), 1);
  EXPECT_EQ(forth.loss.loss.limbs(), back.loss.loss.limbs());
  EXPECT_EQ(forth.squares.limbs(), back.squares.limbs());
  EXPECT_EQ(forth.loss.weight.limbs(), back.loss.weight.limbs());
  EXPECT_EQ(forth.loss.divisor(), 3.0 * 0.1f);
  EXPECT_EQ(forth.loss.count, 9);
  EXPECT_EQ(forth.non_finite_unit, 3);
  EXPECT_EQ(back.non_finite_unit, 3);
  EXPECT_EQ(forth.stop, 15);
  EXPECT_EQ(forth.ready, 3);
}

}  // namespace
}  // namespace furrow::train
