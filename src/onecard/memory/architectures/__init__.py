"""Networks as functions of a tape: each makes the calls that its torch code makes, and no value is
computed. Sizes are facts of the published configs."""
