"""walks or sessions -> checkpoints -> models/<model_id>, user_embeddings, item_embeddings.

    laptop:  python jobs/train.py conf/quickstart.yaml training.epochs=3
    only say what it takes:  python jobs/train.py conf/quickstart.yaml --dry-run
    ranks:   torchrun --standalone --nproc-per-node 2 jobs/train.py conf/quickstart.yaml
    cluster: torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 --max-restarts 3 \\
                 jobs/train.py conf/production.yaml paths.lake=s3a://bucket/lake

A start goes on from the latest checkpoint, also after `--max-restarts` and on another number of ranks. Exit codes: 0
done, 2 the user's input, 75 stopped by SIGTERM with a checkpoint that the same command goes on from, 143 stopped by
SIGTERM without one, 1 anything else, a lost rank too (torchrun itself ends with 1 in all of these; `recspark run` does
not). Metrics: <lake>/checkpoints/<train key>/metrics.jsonl, and where `training.trackers` says.
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("train", __doc__)
