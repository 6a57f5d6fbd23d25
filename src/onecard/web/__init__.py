"""The workbench in a browser: `onecard ui`. Pages and a JSON API over the same door as the command
line; work runs in child processes that outlive both."""
