"""item_embeddings -> indexes/<index_id>.

python jobs/build_index.py conf/quickstart.yaml index.num_shards=4

On several processes or hosts, which meet in the lake alone; any of them may be killed and started again:

torchrun --nnodes 4 --nproc-per-node 2 jobs/build_index.py CONF     every 8th shard a rank, a GPU a rank
python jobs/build_index.py CONF                                     in each pod of a Kubernetes indexed job, with
                                                                    JOB_COMPLETIONS set to its `completions`
python jobs/build_index.py CONF --step train                        or by hand, in any order and number:
python jobs/build_index.py CONF --step add --shards 0-7,12
python jobs/build_index.py CONF --step finish
"""

from recspark.pipeline.index_job import run_index_job

if __name__ == "__main__":
    run_index_job(__doc__)
