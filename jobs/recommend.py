"""item_embeddings, user_histories, the index -> recommendations (purpose serve): top-k lists for all or listed users.

    laptop:  spark-submit --properties-file conf/spark/local.properties jobs/recommend.py conf/quickstart.yaml
    cluster: spark-submit --properties-file conf/spark/cluster.properties --py-files recspark.zip \\
                 jobs/recommend.py conf/production.yaml recommend.release=true paths.lake=s3a://bucket/lake

The same lists as `recspark recommend CONF`. Executors open model and index from the lake: they need its credentials,
and faiss-cpu beside numpy, numba, pyarrow and deltalake.
"""

from recspark.pipeline.side import run_job

if __name__ == "__main__":
    run_job("recommend", __doc__)
