"""Pictures with labels: readers of the usual layouts, validation, splits, contact sheets."""
