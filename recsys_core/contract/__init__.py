"""The data contract: what each column of the log is agreed to be, and what a day may look like beside the last ones."""
