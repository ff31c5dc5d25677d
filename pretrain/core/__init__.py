"""What every package stands on: errors, settings, files. It knows nothing of training."""
