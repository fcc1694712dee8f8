"""On an emulated link, gathers that are prefetched hide behind computation: ranks wait less, with the same weights."""
import os
import sys

sys.path.insert(0, os.path.join(os.environ["FURROW_SOURCE_DIR"], "bench"))
import overlap

exposed = {}
for attempt in range(3):  # other work on the machine takes time from both settings, rarely evenly
    summaries = overlap.measure([0, 1], "1ms", 3, 6)
    exposed = {prefetch: overlap.median(each, "exposed_communication") for prefetch, each in summaries.items()}
    print(f"exposed communication: {exposed[0]:.3f} without prefetch, {exposed[1]:.3f} with one unit")
    if exposed[1] < 0.85 * exposed[0]:
        break
else:
    sys.exit("prefetching hides nothing")

# The control: where the program gathers at the same place, there is nothing to gain.
control = overlap.measure([0], "1ms", 1, 6)[0][0]
if control["exposed_communication"] < 0.1:
    sys.exit(f"the link is not felt: {control['exposed_communication']:.3f} exposed")
