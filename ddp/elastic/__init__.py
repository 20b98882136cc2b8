"""torch.distributed.elastic: where some scripts import from. What keeps a job alive is `ddprun --restarts` and `ddp.Lockstep`."""
