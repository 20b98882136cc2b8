"""Starts the processes of one job and stays until they end. It trains nothing and moves no data.

Three steps: from arguments to a `Job` (`job`), from the job to a `Plan` (`backends`), and running the plan
(`supervisor`). Standard library and `ddp.env` only; nothing imports this package.
"""
