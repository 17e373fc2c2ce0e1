"""torchrun as `recspark run` starts it: told to end, it does so with the signal's exit code and without a traceback.

python -m recspark.pipeline.torchrun --standalone --nproc-per-node 2 -m recspark.pipeline.side train conf/mine.yaml
"""

import sys


def main() -> None:
    """Runs torchrun with this process's arguments."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.run import main as torchrun

    try:
        torchrun()
    except SignalException as told:  # its ranks have ended, and said how
        sys.exit(128 + told.sigval)


if __name__ == "__main__":
    main()
