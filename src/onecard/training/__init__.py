"""What all trainers share: the folder they write to, schedules, checkpoints, seeds. Knows no task."""
