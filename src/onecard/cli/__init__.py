"""The command line: click groups over the tasks and the commands above them."""
