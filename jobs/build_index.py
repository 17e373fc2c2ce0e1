"""item_embeddings -> indexes/<index_id>.

python jobs/build_index.py conf/quickstart.yaml index.num_shards=4
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("index", __doc__)
