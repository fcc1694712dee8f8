// Schedules as CSV: both forms round-trip, what is wrong is named.
#include "furrow/plan/schedule_csv.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow::plan {
namespace {

std::string refusal(std::string_view text) {
  try {
    parse_schedule_csv(text, "mine.csv");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(ScheduleCsv, Text) {
  const Schedule schedule = make_schedule("1F1B", {2, 1, 2});
  EXPECT_EQ(to_csv(schedule), "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
  EXPECT_EQ(to_csv(schedule, ScheduleForm::kCommunication),
            "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0RECV_B1,0B0,0B1\n"
            "1RECV_F0,1RECV_F1,1F0,1B0,1SEND_B0,1F1,1B1,1SEND_B1\n");
}

TEST(ScheduleCsv, WhatPyTorchWritesBesides) {
  const Schedule schedule = parse_schedule_csv(
      "0UNSHARD,0F0,0F1,,,0B0, (0F2;0B1)OVERLAP_F_B ,0B2,0RESHARD,0REDUCE_GRAD\r\n\r\n", "mine.csv");
  EXPECT_EQ(to_csv(schedule), "0F0,0F1,0B0,0F2,0B1,0B2\n");
}

// As PyTorch 2.13 dumps DualPipeV of 2 ranks and 4 microbatches, in the form with communication.
TEST(ScheduleCsv, PyTorchsDualPipeVIsOurs) {
  const Schedule theirs = parse_schedule_csv(
      "0UNSHARD,3UNSHARD,0F0,0SEND_F0,0F1,0SEND_F1,3RECV_F0,0F2,0SEND_F2,3F0,3RECV_F1,3I0,3SEND_B0,3W0,3F1,"
      "3RECV_F2,"
      "0RECV_B0,(0F3;3B1)OVERLAP_F_B,0SEND_F3,3SEND_B1,(3F2;0B0)OVERLAP_F_B,3RECV_F3,0RECV_B1,3B2,3SEND_B2,"
      "(3F3;0B1)OVERLAP_F_B,0RECV_B2,3B3,3SEND_B3,3RESHARD,0RECV_B3,0I2,0W2,0I3,0W3,0RESHARD\r\n"
      "1UNSHARD,2UNSHARD,1RECV_F0,1F0,1RECV_F1,2F0,2SEND_F0,1RECV_F2,1F1,2F1,2SEND_F1,2RECV_B0,1F2,2B0,"
      "(2F2;1B0)OVERLAP_F_B,2SEND_F2,1SEND_B0,1RECV_F3,2RECV_B1,(1F3;2B1)OVERLAP_F_B,(2F3;1B1)OVERLAP_F_B,"
      "2SEND_F3,"
      "1SEND_B1,2RECV_B2,2B2,1B2,1SEND_B2,2RECV_B3,2I3,1I3,1SEND_B3,2W3,2RESHARD,1W3,1RESHARD\r\n",
      "DualPipeV");
  EXPECT_EQ(theirs, make_schedule("DualPipeV", {2, 2, 4}));
}

TEST(ScheduleCsv, CyclesAreNamed) {
  EXPECT_EQ(
      refusal("0F0,0B0,0F1,0B1\n1F1,1F0,1B0,1B1\n"),
      "schedule mine.csv: cycle: rank 0 waits before 0B0 for 1B0, which stands on rank 1 behind 1F1, rank 1 "
      "waits before 1F1 for 0F1, which stands on rank 0 behind 0B0");
  // The computing alone is fine; 1 receives in an order in which 0 does not send.
  EXPECT_EQ(
      refusal("0F0,0SEND_F0,0RECV_B0,0B0,0F1,0SEND_F1,0RECV_B1,0B1\n"
              "1RECV_F1,1RECV_F0,1F0,1B0,1SEND_B0,1F1,1B1,1SEND_B1\n"),
      "schedule mine.csv: cycle: rank 0 waits before 0RECV_B0 for 1SEND_B0, which stands on rank 1 behind "
      "1RECV_F1, rank 1 waits before 1RECV_F1 for 0SEND_F1, which stands on rank 0 behind 0RECV_B0");
}

TEST(ScheduleCsv, WhatIsWrongIsNamed) {
  const std::string no_action =
      " is no action: it must be a stage, F, B, I or W, and a turn, as 2F0, or one of PyTorch's with "
      "communication, "
      "as 2SEND_F0";
  EXPECT_EQ(refusal("0F0,0B0\n0G0\n"), "schedule mine.csv: line 2, cell 1: \"0G0\"" + no_action);
  EXPECT_EQ(refusal("0F0,0B"), "schedule mine.csv: line 1, cell 2: \"0B\"" + no_action);
  EXPECT_EQ(refusal("0F99999999999"), "schedule mine.csv: line 1, cell 1: \"0F99999999999\"" + no_action);
  EXPECT_EQ(refusal("(0F0;0B0)OVERLAP"),
            "schedule mine.csv: line 1, cell 1: \"(0F0;0B0)OVERLAP\"" + no_action);
  EXPECT_EQ(refusal("\n,,\n"), "schedule mine.csv: no line has an action");
  EXPECT_EQ(refusal("0F0,0B0,0F2,0B2"), "schedule mine.csv: 2 forward actions, but 1 stages x 3 turns = 3");
  EXPECT_EQ(refusal("0F0,0F0,0B0,0F1,0B1\n"),
            "schedule mine.csv: 3 forward actions, but 1 stages x 2 turns = 2");
  EXPECT_EQ(refusal("0F0,0F0,0B0,0B1\n"), "schedule mine.csv: rank 0: 0F0 stands there twice");
  EXPECT_EQ(refusal("0F0,0I0\n"),
            "schedule mine.csv: stage 0 has FI in turn 0: it must have F and B, or F, I and W");
  EXPECT_EQ(refusal("0F0,0B0\n1F0,1B0,0B1,0F1,1F1,1B1\n"),
            "schedule mine.csv: rank 1: 0B1, but stage 0 is on rank 0");
  EXPECT_EQ(refusal("0F0,0B0\n\n1F0,1B0\n"), "schedule mine.csv: rank 1 has no stage");
}

TEST(ScheduleCsv, CommunicationMustBeWhole) {
  EXPECT_EQ(refusal("0F0,0SEND_F0,0RECV_B0,0B0\n1F0,1B0,1SEND_B0\n"),
            "schedule mine.csv: rank 1 lacks 1RECV_F0");
  EXPECT_EQ(refusal("0F0,0SEND_F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0\n"),
            "schedule mine.csv: rank 1 lacks 1SEND_B0");
  EXPECT_EQ(refusal("0F0,0SEND_F0,0RECV_B0,0B0,1RECV_F0\n1F0,1B0,1SEND_B0\n"),
            "schedule mine.csv: 1RECV_F0 stands on rank 0, but it belongs to rank 1");
  EXPECT_EQ(refusal("0F0,0SEND_F0,0B0\n"),
            "schedule mine.csv: 0SEND_F0 moves nothing that another rank needs");
  EXPECT_EQ(refusal("0SEND_F0,0F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n"),
            "schedule mine.csv: cycle: rank 0 waits before 0SEND_F0 for 0F0, which stands on rank 0 behind "
            "0SEND_F0");
}

}  // namespace
}  // namespace furrow::plan
