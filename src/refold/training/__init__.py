"""Training: schedules, losses, the LightningModule, callbacks and loggers."""
