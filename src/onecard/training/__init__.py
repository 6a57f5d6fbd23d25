"""What all trainers share: output folder, checkpoints, schedules, interrupts and seeds.

Imports no task; the training loops themselves stay with each task.
"""
