"""What all trainers share: output folder, schedules, checkpoints, seeds. Knows no task."""
