"""From a weights file of any origin to a verified backbone of a detector."""
