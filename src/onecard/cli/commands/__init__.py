"""The commands above the tasks, a file each. Loaded when they are asked for."""
